"""The compiled library: it must be there, be built from the sources next to it, and refuse data of another form."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from setuptools import find_namespace_packages

from drlpp.cluster import load_cluster
from drlpp.cost import PlacedStages, place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import InstallationError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.native import SOURCES, check_sources, library, source_hash
from drlpp.problem import PlanningProblem

SRC = Path(__file__).parents[1] / "src" / "drlpp"


def placed_chain() -> PlacedStages:
    problem = PlanningProblem.build(chain_graph(4, tensor_bytes=1e6), load_cluster("paper-4x4-10gbe"))
    costs = stage_costs(problem, np.arange(4), 4)
    return place_stages(costs, problem.cluster, ((0,), (1,), (2, 3), (4,)), 8)


def test_the_library_is_built_from_the_sources_of_the_checkout():
    assert source_hash(SOURCES) == library.SOURCE_HASH


def test_setup_computes_the_same_hash():
    text = (SOURCES.parents[1] / "setup.py").read_text()
    code = re.search(r"def source_hash.*?return sha.hexdigest\(\)", text, re.DOTALL)
    assert code is not None
    scope: dict = {}
    exec(f"import hashlib\nfrom pathlib import Path\nHERE, NATIVE = Path({str(SOURCES)!r}), Path()\n{code[0]}", scope)
    assert scope["source_hash"]() == source_hash(SOURCES)


def test_a_library_of_other_sources_is_refused(tmp_path):
    (tmp_path / "module.cpp").write_text("int a;")
    built_from = source_hash(tmp_path)
    check_sources(built_from, tmp_path)
    (tmp_path / "notes.txt").write_text("no source")
    check_sources(built_from, tmp_path)
    (tmp_path / "module.cpp").write_text("int b;")
    with pytest.raises(InstallationError, match=r"was not built from the sources in .*: run `make native`"):
        check_sources(built_from, tmp_path)
    check_sources(built_from, tmp_path / "missing")  # an installed package has no sources


def test_a_foreign_folder_of_that_name_is_no_source(tmp_path):
    (tmp_path / "a.cpp").write_text("int a;")
    check_sources("other", tmp_path)


def test_the_package_holds_nothing_but_drlpp():
    settings = tomllib.loads((SOURCES.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = find_namespace_packages(str(SOURCES.parent), include=settings["find"]["include"])
    assert {name.partition(".")[0] for name in found} == {"drlpp"}


def test_a_missing_library_is_one_clear_line():
    code = (
        "import sys; sys.modules['drlpp._native'] = None\n"
        "from drlpp.errors import InstallationError\n"
        "try:\n    import drlpp.native\nexcept InstallationError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == 1
    assert "cannot be loaded" in out
    assert "make native" in out


def test_only_one_module_imports_the_library():
    importing = [p for p in SRC.rglob("*.py") if re.search(r"import _native|drlpp\._native", p.read_text())]
    assert importing == [SRC / "native.py"]


@pytest.mark.parametrize(
    ("field", "value", "error", "text"),
    [
        ("dst", np.zeros(2, dtype=np.int32), TypeError, "dst has dtype int32: it must be int64"),
        ("held_bytes", np.zeros((2, 2)), TypeError, "held_bytes must be a C-contiguous array of 1 dimension"),
        ("used", np.arange(10)[::2], TypeError, "used must be a C-contiguous array of 1 dimension"),
        ("used", [0, 1], TypeError, "used must be an array"),
        ("dst", np.array([0, 1, 9]), ValueError, r"dst has the element 9: it must be in 0\.\.3"),
        ("group_s", np.zeros(9), ValueError, "group_pending has 0 elements: it needs 9"),
        ("slot_off", np.array([0, 2, 1, 4, 5]), ValueError, "slot_off must rise from 0 to 5"),
        ("num_microbatches", 0, ValueError, "num_microbatches must be at least 1"),
        ("round_slot", np.array([0, 1, 2, 1, 4]), ValueError, r"round_slot has the element 1: it must be in 2\.\.3"),
        ("turn_off", np.array([0, 1, 2, 2, 4, 5]), ValueError, "turn_off: slot 2 has no turn"),
        ("slot_microbatches", np.zeros(1, dtype=np.int64), ValueError, "slot_microbatches has 1 elements"),
    ],
)
def test_data_of_another_form_are_refused(field, value, error, text):
    placed = placed_chain()._replace(**{field: value})
    with pytest.raises(error, match=text):
        library.device_loads(placed)
