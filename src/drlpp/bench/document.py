"""Tables of a benchmark in a Markdown document, between markers, so that a script can write them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drlpp.files import read_text, write_atomically


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def write_section(path: Path, marker: str, text: str) -> None:
    """Replaces what stands between two markers of a document, or adds it at the end.

    Raises:
        InputError: the document cannot be read or written.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    content = read_text(path, "document") if path.exists() else "# Benchmarks\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in content and end in content:
        head, rest = content.split(begin, 1)
        content = head + section + rest.split(end, 1)[1]
    else:
        content = f"{content.rstrip()}\n\n{section}\n"
    write_atomically(path, content)
