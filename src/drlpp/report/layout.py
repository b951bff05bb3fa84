"""Where the boxes and edges of a stage graph go on the page: layers from top to bottom, branches side by side.

A layered drawing (Sugiyama, Tagawa and Toda, IEEE SMC 1981): layers by longest path, a point in every layer that an
edge passes, the order inside layers by barycentres, positions by least squares under a minimum distance. Left out:
anything that makes crossings provably few; stage graphs are small.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

BOX_WIDTH = 218.0
BOX_HEIGHT = 76.0
LAYER_GAP = 46.0
BOX_GAP = 26.0
_POINT_WIDTH = 14.0
_MARGIN = 3.0
_SWEEPS = 8
_SETTLING_SWEEPS = 24


@dataclasses.dataclass(frozen=True, slots=True)
class PlacedEdge:
    """An edge: SVG path data, and where its label goes."""

    src: int
    dst: int
    path: str
    label_x: float
    label_y: float


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Positions in pixels: the left upper corner of each box, edges, and the size of the drawing."""

    boxes: tuple[tuple[float, float], ...]
    edges: tuple[PlacedEdge, ...]
    width: float
    height: float


def layout_graph(num_boxes: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Lays out a DAG whose every edge goes from a smaller to a larger index."""
    layer = _layers(num_boxes, edges)
    chains = _chains(num_boxes, edges, layer)
    level = dict(enumerate(layer))
    links: list[tuple[int, int]] = []
    for chain in chains:
        level.update({item: layer[chain[0]] + i for i, item in enumerate(chain)})
        links += pairwise(chain)
    rows = _order(level, links, num_boxes)
    centre = _positions(rows, links, num_boxes)

    left = min(c - _half(i, num_boxes) for i, c in centre.items()) - _MARGIN
    right = max(c + _half(i, num_boxes) for i, c in centre.items()) + _MARGIN
    x = {i: c - left for i, c in centre.items()}
    y = {i: row * (BOX_HEIGHT + LAYER_GAP) + _MARGIN for i, row in level.items()}
    return Layout(
        boxes=tuple((x[i] - BOX_WIDTH / 2, y[i]) for i in range(num_boxes)),
        edges=tuple(_placed(chain, x, y) for chain in chains),
        width=right - left,
        height=max(y.values()) + BOX_HEIGHT + _MARGIN,
    )


def _half(item: int, num_boxes: int) -> float:
    return (BOX_WIDTH if item < num_boxes else _POINT_WIDTH) / 2


def _layers(num_boxes: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    layer = [0] * num_boxes
    for a, b in sorted(edges):
        layer[b] = max(layer[b], layer[a] + 1)
    return layer


def _chains(num_boxes: int, edges: Sequence[tuple[int, int]], layer: list[int]) -> list[list[int]]:
    """Per edge, its boxes and the points between: one per layer that it passes."""
    chains, free = [], num_boxes
    for a, b in edges:
        between = layer[b] - layer[a] - 1
        chains.append([a, *range(free, free + between), b])
        free += between
    return chains


def _order(level: dict[int, int], links: list[tuple[int, int]], num_boxes: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(max(level.values()) + 1)]
    for item, row in sorted(level.items()):
        rows[row].append(item)
    above, below = _neighbours(links)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for items in rows if down else rows[::-1]:
            other = {item: (i + 0.5) / len(r) for r in rows for i, item in enumerate(r)}
            items.sort(key=lambda item: _mean([other[n] for n in near[item]], other[item]))
    return rows


def _neighbours(links: list[tuple[int, int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = defaultdict(list)
    below: dict[int, list[int]] = defaultdict(list)
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    return above, below


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _positions(rows: list[list[int]], links: list[tuple[int, int]], num_boxes: int) -> dict[int, float]:
    """Centre of every item: near its neighbours, and as far from the next in its row as widths ask."""
    above, below = _neighbours(links)
    centre: dict[int, float] = {}
    for row in rows:
        offsets = _offsets(row, num_boxes)
        centre.update(zip(row, (offsets - offsets.mean()).tolist(), strict=True))
    for sweep in range(_SETTLING_SWEEPS):
        down, settled = sweep % 2 == 0, sweep >= _SETTLING_SWEEPS - 2
        for row in rows if down else rows[::-1]:
            near = [above[i] + below[i] if settled else (above if down else below)[i] for i in row]
            wish = np.array([_mean([centre[n] for n in them], centre[i]) for i, them in zip(row, near, strict=True)])
            weight = np.array([1.0 if i < num_boxes else 4.0 for i in row])
            offsets = _offsets(row, num_boxes)
            apart = isotonic_regression(wish - offsets, weights=weight).x
            centre.update(zip(row, (apart + offsets).tolist(), strict=True))
    return centre


def _offsets(row: list[int], num_boxes: int) -> NDArray[np.float64]:
    gaps = [_half(a, num_boxes) + BOX_GAP + _half(b, num_boxes) for a, b in pairwise(row)]
    return np.concatenate([[0.0], np.cumsum(gaps)])


def _placed(chain: list[int], x: dict[int, float], y: dict[int, float]) -> PlacedEdge:
    start = (x[chain[0]], y[chain[0]] + BOX_HEIGHT)
    path = [f"M{start[0]:.1f} {start[1]:.1f}"]
    at = start
    for item in chain[1:]:
        to = (x[item], y[item])
        middle = (at[1] + to[1]) / 2
        path.append(f"C{at[0]:.1f} {middle:.1f} {to[0]:.1f} {middle:.1f} {to[0]:.1f} {to[1]:.1f}")
        at = to
        if item != chain[-1]:
            at = (to[0], to[1] + BOX_HEIGHT)
            path.append(f"V{at[1]:.1f}")
    first = (x[chain[1]], y[chain[1]])
    return PlacedEdge(chain[0], chain[-1], "".join(path), (start[0] + first[0]) / 2, (start[1] + first[1]) / 2)
