"""Which module names which in its imports, found in the files."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"


def module_name(path: Path) -> str:
    """The dotted name of a source file; that of its package for an ``__init__.py``."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports; ``from a import b`` gives ``a.b``, be it a module or a name in one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def home(name: str, modules: Iterable[str]) -> str | None:
    """The module of ours that an imported name is in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that its file names in imports."""
    modules = {module_name(p): p for p in [*SRC.rglob("*.py"), *SRC.rglob("*.pyi")]}
    graph = {
        name: {home(n, modules) for n in imported(path)} if path.suffix == ".py" else set()  # compiled: imports nothing
        for name, path in modules.items()
    }
    return {name: {n for n in others if n and n != name} for name, others in graph.items()}
