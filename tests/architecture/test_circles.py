"""No circle of files: whoever reads a file needs only files below it.

Imports inside functions and under ``TYPE_CHECKING`` count, since a reader follows them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from architecture_graph import import_graph


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
