"""Which releases of PyTorch drlpp is made for, and what is said of others."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from drlpp.errors import InstallationError
from drlpp.torch_private import TESTED, missing, region_passes, torch_release, untested

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("version", "release"), [("2.14.1+cu130", (2, 14)), ("2.9.0", (2, 9)), ("2.16.0a0+git123", (2, 16))]
)
def test_release(version, release):
    assert torch_release(version) == release


def test_releases_in_the_range_are_tested():
    assert TESTED[0] <= torch_release() <= TESTED[1]
    assert [untested(r) for r in TESTED] == ["", ""]


@pytest.mark.parametrize("release", [(2, 8), (2, 16), (3, 0)])
def test_others_are_named(release):
    found = (
        f"torch {release[0]}.{release[1]} is not tested with drlpp, which is made for 2.9 to 2.15: install one of these"
    )
    assert untested(release) == found


def test_the_requirement_is_the_range():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (oldest, newest) = TESTED
    assert f"torch>={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}" in requirements


def test_a_name_that_is_gone():
    error = missing(AttributeError("module 'torch._C' has no attribute 'TensorBase'"))
    assert isinstance(error, InstallationError)
    assert re.fullmatch(
        rf"torch {re.escape(torch.__version__)} is not as drlpp needs it \(module 'torch\._C' has no attribute "
        r"'TensorBase'\): install a release from 2\.9 to 2\.15",
        str(error),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "del torch.autograd._engine_run_backward",
            r"InstallationError: torch \S+ is not as drlpp needs it .*_engine_run",
        ),
        ("torch.__version__ = '2.16.1'", r"^torch 2\.16 is not tested with drlpp"),
    ],
)
def test_what_is_said_when_drlpp_is_imported(change, said):
    done = subprocess.run(
        [sys.executable, "-c", f"import torch\n{change}\nimport drlpp.torch_private"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(said, done.stderr, re.MULTILINE)


def test_passes_that_are_gone_are_told_when_they_are_needed(monkeypatch):
    assert [callable(getattr(m, m.__name__.rpartition(".")[2])) for m in region_passes()] == [True, True]
    monkeypatch.setitem(sys.modules, "torch._export.passes", None)
    with pytest.raises(InstallationError, match=r"is not as drlpp needs it .*torch\._export\.passes"):
        region_passes()
