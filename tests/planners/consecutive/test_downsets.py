"""Downsets against their definition, and what keeps them few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp.planners.consecutive.downsets import all_downsets, grouped_downsets, masks_to_rows, with_their_neighbours


def predecessors(rng: np.random.Generator, num: int, share: float) -> list[list[int]]:
    return [[i for i in range(j) if rng.random() < share] for j in range(num)]


def is_downset(mask: np.ndarray, before: list[list[int]]) -> bool:
    return all(mask[p] for i in np.flatnonzero(mask) for p in before[i])


@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.05, 0.6))
def test_every_downset_is_found_once(seed, num, share):
    before = predecessors(np.random.default_rng(seed), num, share)
    every = {m for m in itertools.product((False, True), repeat=num) if is_downset(np.array(m), before)}
    found = [tuple(row) for row in all_downsets(before, 2**num).tolist()]
    assert len(found) == len(set(found))
    assert set(found) == every


@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.05, 0.6))
def test_grouped_downsets_are_those_that_part_no_group(seed, num, share):
    before = predecessors(np.random.default_rng(seed), num, share)
    group = with_their_neighbours(before)
    whole = [row for row in all_downsets(before, 2**num) if all(len(set(row[group == g])) == 1 for g in group)]
    found = grouped_downsets(before, 2**num)
    assert {tuple(row) for row in found.tolist()} == {tuple(row) for row in np.array(whole).tolist()}


def test_more_than_the_limit():
    assert all_downsets([[], [], []], 7) is None
    assert grouped_downsets([[], [], []], 7) is None


def test_a_chain_stays_a_chain():
    assert with_their_neighbours([[], [0], [1], [2]]).tolist() == [0, 1, 2, 3]


def test_parameters_go_with_the_op_that_reads_them():
    #   input 0 -> 2 -> 4 -> 6, parameters 1, 3, 5 of these, a statistic 7 of the second
    before = [[], [], [0, 1], [], [2, 3], [], [4, 5], [4]]
    group = with_their_neighbours(before)
    assert [group[1] == group[2], group[3] == group[4], group[5] == group[6], group[7] == group[4]] == [True] * 4
    assert len(set(group[[0, 2, 4, 6]])) == 4
    assert len(grouped_downsets(before, 100)) == 5


@pytest.mark.parametrize("branches", [2, 3])
def test_branches_stay_apart(branches):
    before = [[], *([0] for _ in range(branches)), list(range(1, branches + 1))]
    assert len(set(with_their_neighbours(before).tolist())) == branches + 2


def test_masks_to_rows():
    assert masks_to_rows([0b101, 1 << 9], 10).nonzero()[1].tolist() == [0, 2, 9]
