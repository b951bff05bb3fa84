"""The site builds without warnings, and the navigation copes with pages that are not there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_that_are_not_there_are_left_out(tmp_path):
    (tmp_path / "a.md").write_text("# A")
    nav = [{"A": "a.md"}, {"B": "b.md"}, {"C": [{"D": "d.md"}]}, {"E": [{"F": "a.md"}, {"G": "g.md"}]}]
    assert hooks().present(nav, tmp_path) == [{"A": "a.md"}, {"E": [{"F": "a.md"}]}]


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PlanningProblem" in (tmp_path / "api" / "planning.html").read_text()
    assert "fonts.googleapis.com" not in (tmp_path / "index.html").read_text()
