"""Runs the commands of the documentation, page by page in the order of the navigation, in one folder.

In the pages, ``console`` blocks are what a reader types: lines that begin with ``$`` are run, and must end with status
0. A block with a title is a file that the reader makes. Budgets are cut to `BUDGET_S`. Lines ``drlpp ...`` in
other blocks are checked for verbs and options that exist.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from drlpp.cli.main import app, run_command_line

DOCS = Path(__file__).parents[2] / "docs"
BUDGET_S = "0.3"
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages():
    """Names of the pages that are there: those of the navigation in its order, then others."""

    def flat(entries):
        for entry in entries:
            for target in entry.values():
                yield from flat(target) if isinstance(target, list) else [target]

    nav = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text())["nav"]
    found = [str(p.relative_to(DOCS)) for p in sorted(DOCS.rglob("*.md"))]
    return [p for p in flat(nav) if p in found] + [p for p in found if p not in set(flat(nav))]


def blocks(page):
    """(language, title, text) of the fenced blocks of a page."""
    return [m.groups() for m in BLOCK.finditer((DOCS / page).read_text())]


def typed(text):
    """The lines that a reader types; a backslash joins a line to the next."""
    joined = text.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the reader works, with the files that the pages have them make."""
    made = tmp_path_factory.mktemp("reader")
    for page in pages():
        for _, title, text in blocks(page):
            if title:
                (made / title).write_text(text)
    return made


def execute(line):
    words = shlex.split(line, comments=True)
    if words[0] == "python":
        return subprocess.run([sys.executable, *words[1:]], check=False, timeout=120).returncode
    assert words[0] == "drlpp", f"console blocks hold drlpp and python commands: {line}"
    if "--budget" in words:
        words[words.index("--budget") + 1] = BUDGET_S
    elif words[1] in ("plan", "compare", "whatif"):
        words += ["--budget", BUDGET_S]
    return run_command_line(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in pages() if any(b[0] == "console" for b in blocks(p))])
def test_commands_of_a_page(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for language, _, text in blocks(page):
        if language == "console":
            for line in typed(text):
                assert execute(line) == 0, f"{page}: {line}"


def mentioned():
    """(page, line) of the drlpp commands in blocks that are not run, those of the README among them."""
    readme = ["../README.md"] if (DOCS.parent / "README.md").is_file() else []
    for page in [*readme, *pages()]:
        for language, _, text in blocks(page):
            if language in ("", "sh", "bash", "text", "shell"):
                for line in text.replace("\\\n", " ").splitlines():
                    if line.startswith("drlpp "):
                        yield page, line


@pytest.mark.parametrize(("page", "line"), list(mentioned()))
def test_mentioned_commands_exist(page, line):
    words = shlex.split(line, comments=True)
    verb = typer.main.get_command(app).commands.get(words[1])
    assert verb is not None, f"{page}: no verb {words[1]}"
    options = {o for parameter in verb.params if parameter.param_type_name == "option" for o in parameter.opts}
    for word in words[2:]:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            assert word.partition("=")[0] in options | {"--help"}, f"{page}: {line}"
