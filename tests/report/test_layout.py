from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.report.layout import BOX_HEIGHT, BOX_WIDTH, layout_graph


@st.composite
def dags(draw):
    n = draw(st.integers(1, 9))
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    return n, sorted(draw(st.sets(st.sampled_from(pairs)))) if pairs else []


@settings(max_examples=60, deadline=None)
@given(dags())
def test_boxes_are_inside_and_do_not_overlap_and_edges_go_down(dag):
    n, edges = dag
    layout = layout_graph(n, edges)
    for x, y in layout.boxes:
        assert -1e-6 <= x <= layout.width - BOX_WIDTH + 1e-6
        assert -1e-6 <= y <= layout.height - BOX_HEIGHT + 1e-6
    for i, (x, y) in enumerate(layout.boxes):
        for u, v in layout.boxes[:i]:
            assert abs(x - u) >= BOX_WIDTH - 1e-6 or abs(y - v) >= BOX_HEIGHT
    assert [(e.src, e.dst) for e in layout.edges] == edges
    for e in layout.edges:
        assert layout.boxes[e.src][1] + BOX_HEIGHT < layout.boxes[e.dst][1]


def test_branches_lie_side_by_side():
    layout = layout_graph(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    y = [y for _, y in layout.boxes]
    assert y[1] == y[2]
    assert abs(layout.boxes[1][0] - layout.boxes[2][0]) > BOX_WIDTH
    middle = (layout.boxes[1][0] + layout.boxes[2][0]) / 2
    assert layout.boxes[0][0] == pytest.approx(middle, abs=2.0)
    assert layout.boxes[3][0] == pytest.approx(middle, abs=2.0)


def test_a_chain_is_straight():
    layout = layout_graph(5, [(i, i + 1) for i in range(4)])
    assert len({round(x, 3) for x, _ in layout.boxes}) == 1


def test_an_edge_over_a_layer_passes_beside_its_box():
    layout = layout_graph(3, [(0, 1), (1, 2), (0, 2)])
    skip = next(e for e in layout.edges if (e.src, e.dst) == (0, 2))
    numbers = [float(v) for v in re.findall(r"-?\d+\.\d", skip.path)]
    at_box = numbers[6]  # x of the first end point, at the height of box 1
    left = layout.boxes[1][0]
    assert not left <= at_box <= left + BOX_WIDTH
