"""The public names are what they are on purpose: a change here is a change for users."""

import subprocess
import sys

import pytest

import drlpp

PUBLIC = {
    "Cluster",
    "OpGraph",
    "Plan",
    "PlanningProblem",
    "__version__",
    "capture_graph",
    "load_cluster",
    "load_plan",
    "read_graph",
    "run",
    "save_plan",
    "simulate",
    "solve",
    "validate",
}


def test_public_names():
    assert set(drlpp.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_loads_and_is_documented(name):
    value = getattr(drlpp, name)
    if name != "__version__":
        assert value.__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'plan_everything'"):
        drlpp.plan_everything  # noqa: B018


def test_import_loads_nothing_heavy():
    code = "import sys, drlpp; print([m for m in ('torch', 'numpy', 'drlpp.native', 'drlpp.plan') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
