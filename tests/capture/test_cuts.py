"""Cuts of dimensions, and what views make of them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.capture.cuts import Cut, cut_before_view, cut_size, merged_cuts, sectioned, tiles


def part(x: torch.Tensor, cut: Cut, member: int, degree: int) -> torch.Tensor:
    """What a member has of a tensor."""
    pattern = cut.sections or (x.shape[cut.dim],)
    sections = x.split(list(pattern) * (x.shape[cut.dim] // sum(pattern)), dim=cut.dim)
    return torch.cat([s.chunk(degree, dim=cut.dim)[member] for s in sections], dim=cut.dim)


@pytest.mark.parametrize(
    ("source", "result", "cut", "before"),
    [
        ((2, 16, 24), (2, 16, 3, 8), Cut(2), Cut(2)),
        ((2, 16, 24), (2, 16, 3, 4, 2), Cut(3), Cut(2, (8,))),
        ((2, 16, 24), (2, 16, 3, 4, 2), Cut(4), Cut(2, (2,))),
        ((2, 16, 24), (32, 24), Cut(0, (16,)), Cut(1)),
        ((1, 16, 24), (16, 24), Cut(0, (16,)), Cut(1)),
        ((16, 24), (1, 16, 24), Cut(1), Cut(0, (16,))),
        ((16, 2, 24), (16, 8, 6), Cut(1, (4,)), Cut(2)),
        ((6, 4), (4, 6), Cut(0), Cut(0)),
        ((6, 4), (4, 6), Cut(1), None),
        ((12,), (12,), Cut(0, (8, 4)), Cut(0, (8, 4))),
        ((24,), (12, 2), Cut(0, (8, 4)), Cut(0, (16, 8))),
        ((2, 12), (24,), Cut(0, (8, 4)), None),
        ((0,), (0, 1), Cut(1), None),
    ],
)
def test_a_view_of_a_cut_tensor_is_cut(source, result, cut, before):
    assert cut_before_view(source, result, cut) == before


shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@given(shapes, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_parts_of_a_view_are_views_of_the_parts(source, chance):
    numel = math.prod(source)
    factors = [n for n in (1, 2, 3, 4, 6, 8, 12) if numel % n == 0]
    first = chance.choice(factors)
    result = tuple(chance.choice([(first, numel // first), (numel // first, 1, first), (numel,)]))
    x = torch.arange(numel).reshape(source)
    for cut in [*(Cut(d) for d in range(len(result))), *merged_cuts(source, result)]:
        before = cut_before_view(source, result, cut)
        if before is None:
            continue
        degree = math.gcd(cut_size(cut, result), cut_size(before, source))
        for d, member in itertools.product({degree, 2}, range(degree)):
            if d > 1 and degree % d == 0 and member < d:
                wanted = part(x.reshape(result), cut, member, d)
                assert part(x, before, member, d).reshape(wanted.shape).equal(wanted), (source, result, cut, before)


def test_sections_have_their_shortest_pattern():
    assert sectioned(1, [8, 8, 8]) == Cut(1, (8,))
    assert sectioned(1, [8, 4, 8, 4]) == Cut(1, (8, 4))
    assert sectioned(0, [8, 4, 4]) == Cut(0, (8, 4, 4))


def test_tiles_leave_no_gap():
    assert tiles([(4, 6), (0, 4), (0, 4)], 6) == (4, 2)
    assert tiles([(0, 4), (5, 6)], 6) == ()
    assert tiles([(0, 4)], 6) == ()
