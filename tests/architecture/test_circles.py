"""No circle of files: whoever reads a file needs only files below it.

Imports inside functions and under ``TYPE_CHECKING`` count, since a reader follows them too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

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


def home(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module of ours that an imported name is in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that its file names in imports."""
    modules = {module_name(p): p for p in [*SRC.rglob("*.py"), *SRC.rglob("*.pyi")]}
    graph = {
        name: {home(n, modules) for n in imported(path)} if path.suffix == ".py" else set()  # compiled: imports nothing
        for name, path in modules.items()
    }
    return {name: {n for n in others if n and n != name} for name, others in graph.items()}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of the graph as a list of its members, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_files():
    graph = import_graph()
    assert "drlpp.cli.main" in graph["drlpp.__main__"]
    assert circle(graph) == []


@pytest.mark.parametrize("graph", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}])
def test_a_circle_is_found(graph):
    assert len(circle(graph)) == len(set(circle(graph))) + 1
