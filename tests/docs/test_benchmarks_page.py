"""The page of benchmarks is what its data make, section by section at one commit; and every script is described."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks"
SHARED = {"tables.py", "page.py", "all.py", "drl_variants.py", "behaviour_problems.py"}
"""Files that others import, or that run the others."""


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    yield runpy.run_path(str(SCRIPTS / "page.py"))
    for name in ("tables", "page"):
        sys.modules.pop(name, None)


def test_nothing_on_the_page_is_written_by_hand(page):
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page["render"]()


def test_every_file_of_results_is_a_section(page):
    names = {section.name for section in page["SECTIONS"]}
    assert {path.stem for path in (ROOT / "docs" / "data").glob("*.json")} <= names


def test_sections_name_their_one_commit(page):
    text = page["render"]()
    for part in text.split("\n## ")[1:]:
        if not part.startswith("Left out"):
            assert len(set(re.findall(r"\b[Cc]ommit ([0-9a-f]{7,})", part))) == 1, part[:60]


def test_scripts_of_the_sections_are_there(page):
    for section in page["SECTIONS"]:
        script = section.command.split()[0]
        assert script == "drlpp" or (SCRIPTS / script).is_file(), section


def test_words_and_tables_are_told_apart(page):
    parsed = runpy.run_path(str(SCRIPTS / "tables.py"))["parsed"]
    text = "commit abc1234, so it is.\n\n| a | b |\n| --- | --- |\n| 1 | x\\|y |\n\nThe end."
    assert parsed(text) == {
        "commits": ["abc1234"],
        "blocks": [
            {"text": "commit abc1234, so it is."},
            {"columns": ["a", "b"], "rows": [["1", "x\\|y"]]},
            {"text": "The end."},
        ],
    }


def test_every_script_is_described():
    text = (SCRIPTS / "README.md").read_text()
    assert [p.name for p in sorted(SCRIPTS.glob("*.py")) if p.name not in SHARED and p.name not in text] == []


def test_data_are_json():
    for path in (ROOT / "docs" / "data").glob("*.json"):
        assert json.loads(path.read_text())["blocks"]
