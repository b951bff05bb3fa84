"""The site builds without warnings, and what the documents name is there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
HISTORY = {"log.md", "CHANGELOG.md", "benchmarks.md", "when-it-wins.md"}
"""Documents that name files as they were."""
ROOMS = sorted(p.name for p in (ROOT / "src" / "drlpp").iterdir() if p.is_dir())


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name not in HISTORY], ids=lambda d: d.name)
def test_files_that_are_named_are_there(document):
    text = document.read_text()
    paths = re.findall(r"\b(?:src/drlpp|tests|benchmarks|examples)/[\w/.-]*\w\.(?:py|sh|json)\b", text)
    paths += [f"src/drlpp/{p}" for p in re.findall(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})/[\w/]+\.py\b", text)]
    assert [p for p in paths if "NAME" not in p and not (ROOT / p).exists()] == []


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name not in HISTORY], ids=lambda d: d.name)
def test_names_of_the_package_are_there(document):
    names = re.findall(r"(?<![\w.-])drlpp(?:\.[a-z_]\w*)+(?:\.[A-Z]\w*)?", document.read_text())
    assert [name for name in sorted(set(names)) if not defined(name)] == []


def defined(name):
    """A dotted name is a module, or a word of the module that it begins with (a function, a class, a constant)."""
    at, parts = ROOT / "src", name.split(".")
    while parts and (at / parts[0]).is_dir():
        at = at / parts.pop(0)
    if parts == ["_native"]:  # compiled
        return True
    if parts and (at / f"{parts[0]}.py").is_file():
        text = (at / f"{parts.pop(0)}.py").read_text()
    else:
        text = (at / "__init__.py").read_text()
    return not parts or re.search(rf"\b{parts[0]}\b", text) is not None
