"""What the benchmark scripts share: results as JSON under docs/data, and the page that is made of them (`page.py`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from drlpp.bench.document import markdown_table as markdown
from drlpp.bench.settings import machine
from drlpp.files import write_atomically

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "data"
DOCUMENT = DOCS / "benchmarks.md"
WHEN_IT_WINS = DOCS / "when-it-wins.md"
_COMMIT = re.compile(r"\bcommit ([0-9a-f]{7,40})\b")
_CELL = re.compile(r"(?<!\\)\|")

__all__ = ["DATA", "DOCS", "DOCUMENT", "WHEN_IT_WINS", "machine", "markdown", "write_part", "write_section"]


def write_section(name: str, text: str) -> None:
    """Writes the results of one script, and the page anew.

    Args:
        name: of the results: a section of the page (`page.SECTIONS`).
        text: Markdown: words and tables. It says the commit, as `machine` does.
    """
    from page import render

    DATA.mkdir(exist_ok=True)
    write_atomically(DATA / f"{name}.json", json.dumps(parsed(text), indent=1, ensure_ascii=False) + "\n")
    write_atomically(DOCUMENT, render())


def write_part(page: Path, name: str, text: str) -> None:
    """Writes one script's part of a page that several scripts write: what is between its markers, else at the end."""
    begin, end = (f"<!-- {name}:{edge} -->\n" for edge in ("begin", "end"))
    before, found, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2] if found else ""
    write_atomically(page, f"{before if found else before.rstrip() + chr(10) * 2}{begin}{text.strip()}\n{end}{after}")


def parsed(text: str) -> dict[str, Any]:
    """Words and tables of a Markdown text, in order, and the commits that it names."""
    blocks: list[dict[str, Any]] = []
    for part in re.split(r"\n{2,}|\n(?=\| )(?<!\|\n)|(?<=\|)\n(?!\|)", text.strip()):
        lines = part.strip().splitlines()
        if lines and all(line.startswith("|") for line in lines):
            header, _, *rows = [[cell.strip() for cell in _CELL.split(line.strip("|"))] for line in lines]
            blocks.append({"columns": header, "rows": rows})
        elif lines:
            blocks.append({"text": "\n".join(lines)})
    return {"commits": sorted(set(_COMMIT.findall(text))), "blocks": blocks}
