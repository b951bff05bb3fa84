"""What the benchmark scripts share: where their tables go."""

from __future__ import annotations

from pathlib import Path

from drlpp.bench.document import markdown_table as markdown
from drlpp.bench.document import write_section as write_into
from drlpp.bench.settings import machine

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

__all__ = ["DOCUMENT", "machine", "markdown", "write_section"]


def write_section(marker: str, text: str) -> None:
    """Replaces what stands between two markers of the document, or adds it at the end."""
    write_into(DOCUMENT, marker, text)
