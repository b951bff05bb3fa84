"""Cuts of one dimension of a tensor into equal parts, and what reshaping makes of them.

Everything here is about shapes alone.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

from drlpp.graph import PARTIAL_SUM

Shape = Sequence[int]


class Cut(NamedTuple):
    """A dimension that is cut; with `sections`, each of the sections that repeat along it is cut for itself.

    The form of `drlpp.graph.Part` without the tensor.
    """

    dim: int
    sections: tuple[int, ...] = ()


PARTIAL = Cut(PARTIAL_SUM)
"""In the place of a cut: every member has a part of the sum."""


def sectioned(dim: int, sections: Sequence[int]) -> Cut:
    """The cut of a dimension that falls into `sections`, by the shortest pattern that repeats."""
    whole = tuple(sections)
    periods = (n for n in range(1, len(whole)) if len(whole) % n == 0 and whole[:n] * (len(whole) // n) == whole)
    return Cut(dim, whole[: next(periods, len(whole))])


def cut_size(cut: Cut, shape: Shape) -> int:
    """Number that a degree must divide."""
    return math.gcd(*cut.sections) if cut.sections else shape[cut.dim]


def segments(source: Shape, result: Shape) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of dimensions of two shapes of the same elements that hold the same elements.

    Dimensions of length 1 are left out, but for the first: samples may be more at another time.
    """
    a = [i for i, n in enumerate(source) if n != 1 or i == 0]
    b = [j for j, n in enumerate(result) if n != 1 or j == 0]
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        first, second = [a[i]], [b[j]]
        p, q = source[a[i]], result[b[j]]
        i, j = i + 1, j + 1
        while p != q:
            if p < q and i < len(a):
                first.append(a[i])
                p, i = p * source[a[i]], i + 1
            elif j < len(b):
                second.append(b[j])
                q, j = q * result[b[j]], j + 1
            else:
                return found
        found.append((first, second))
    return found


def cut_before_view(source: Shape, result: Shape, cut: Cut) -> Cut | None:
    """How the source of a view is cut where its result is cut so; None where no cut of one dimension does it."""
    for before, after in segments(source, result):
        if cut.dim in after:
            return _before(source, result, cut, before, after)
    return None


def _before(source: Shape, result: Shape, cut: Cut, before: Sequence[int], after: Sequence[int]) -> Cut | None:
    if len(before) == len(after) == 1:
        return Cut(before[0], cut.sections)
    if len(cut.sections) > 1:  # of unlike lengths
        inner = math.prod(result[d] for d in after[1:])
        first = len(before) == 1 and cut.dim == after[0]
        return Cut(before[0], tuple(n * inner for n in cut.sections)) if first else None
    atoms = _atoms([source[d] for d in before], [result[d] for d in after])
    if atoms is None:
        return Cut(before[0]) if cut.dim == after[0] and not cut.sections else None
    own, other = _places(atoms, after, result), _places(atoms, before, source)
    return next((other[k] for k, place in enumerate(own) if place == cut), None)


def _atoms(first: Shape, second: Shape) -> list[int] | None:
    """Lengths of axes of which the dimensions of both shapes are products; None where there are none."""
    ends = sorted([*itertools.accumulate(first, operator.mul), *itertools.accumulate(second, operator.mul)])
    found, last = [], 1
    for i, end in enumerate(ends):
        if end % last:
            return None
        if end != last or i == 0:
            found.append(end // last)
        last = end
    return found


def _places(atoms: Sequence[int], dims: Sequence[int], shape: Shape) -> list[Cut]:
    """Per atom, the cut of a dimension that cuts it."""
    found, k = [], 0
    for dim in dims:
        inner, start = shape[dim], k
        while k < len(atoms) and (inner > 1 or k == start):
            found.append(Cut(dim, (inner,) if k > start else ()))
            inner //= atoms[k]
            k += 1
    return found


def merged_cuts(source: Shape, result: Shape) -> list[Cut]:
    """Cuts in sections of a view's result that are cuts of one dimension of its source."""
    found = []
    for before, after in segments(source, result):
        atoms = _atoms([source[d] for d in before], [result[d] for d in after])
        if atoms is not None and len(before) > 1:
            found += [cut for cut in _places(atoms, after, result) if cut.sections]
    return found


def tiles(ranges: Sequence[tuple[int, int]], length: int) -> tuple[int, ...]:
    """Lengths of ranges that follow each other from 0 to `length`; empty where they overlap or leave gaps."""
    ordered = sorted({(start, stop) for start, stop in ranges if start != stop})
    ends = [0, *(stop for _, stop in ordered)]
    starts = [*(start for start, _ in ordered), length]
    return tuple(b - a for a, b in itertools.pairwise(ends)) if ends == starts else ()
