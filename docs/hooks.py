"""MkDocs hook: the navigation lists pages in order; a page that a checkout does not have is left out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Called by MkDocs once the configuration is read."""
    config.nav = present(config.nav, Path(config.docs_dir))
    return config


def present(nav: list[Any], docs: Path) -> list[Any]:
    """The navigation without pages that are not there, and without sections that are empty then."""
    kept = []
    for entry in nav:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = present(target, docs)
            if target:
                kept.append({title: target})
        elif (docs / target).is_file():
            kept.append(entry)
    return kept
