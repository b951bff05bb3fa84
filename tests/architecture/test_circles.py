"""No circle of files: whoever reads a file needs only files below it.

Imports inside functions and under ``TYPE_CHECKING`` count, since a reader follows them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import drlpp
from architecture_graph import home, import_graph, imported

TESTS = Path(__file__).parents[1]


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


def test_imports_name_what_there_is():
    """A name of ours that is imported is a module, or stands in one: nobody imports a file that has moved."""
    graph = import_graph()
    files = [*(TESTS.parent / "src" / "drlpp").rglob("*.py"), *TESTS.rglob("*.py")]
    wrong = {
        f"{path.relative_to(TESTS.parent)}: {name}"
        for path in files
        for name in imported(path)
        if name.startswith("drlpp.") and not stands(name, graph)
    }
    assert wrong == set(), "has a file moved? (drlpp.solve is the function, its file drlpp.solving)"
    assert not stands("drlpp.solve.replan", graph)


def stands(name: str, graph: Mapping[str, set[str]]) -> bool:
    """Whether an imported name is a module or an attribute of one; of the package, of its public names."""
    module = home(name, graph)
    return name in graph or (name.rpartition(".")[0] == module and (module != "drlpp" or hasattr(drlpp, name[6:])))
