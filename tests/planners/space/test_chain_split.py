"""Splits of sequences against all splits of short ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drlpp.errors import PlanError
from drlpp.planners.space.chain_split import ChainLoads, crossing_bytes, run_loads, split_chain


def loads(rng: np.random.Generator, items: int, stages: int, room: float) -> ChainLoads:
    def sums(values):
        return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)

    seconds = rng.uniform(0.5, 2.0, stages)[:, None] * rng.uniform(0.1, 1.0, items)
    return ChainLoads(
        seconds=sums(seconds),
        resident_bytes=sums(rng.uniform(0, 4, items)),
        activation_bytes=sums(rng.uniform(0, 2, items)),
        boundary_bytes=rng.uniform(0, 1, items) * (np.arange(items) > 0),
        capacity_bytes=rng.uniform(0.5, 1.5, stages) * room,
        kept=np.arange(stages, 0, -1.0),
        received=np.arange(stages, 0, -1.0),
    )


def excess(of: ChainLoads, starts: tuple[int, ...]) -> float:
    out = 0.0
    for s, (a, b) in enumerate(itertools.pairwise((*starts, of.num_items))):
        held = of.resident_bytes[b] - of.resident_bytes[a] + of.received[s] * of.boundary_bytes[a]
        held += of.kept[s] * (of.activation_bytes[b] - of.activation_bytes[a])
        out = max(out, held - of.capacity_bytes[s])
    return out


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 3), st.sampled_from([2.0, 6.0, 12.0, 40.0]))
def test_what_is_said_to_fit_fits(seed, items, stages, room):
    of = loads(np.random.default_rng(seed), items, stages, room)
    found = split_chain(of)
    every = [(0, *cuts) for cuts in itertools.combinations(range(1, items), stages - 1)]
    assert found.starts in every
    assert excess(of, found.starts) <= found.excess_bytes + 1e-6
    fitting = [starts for starts in every if excess(of, starts) <= 0]
    assert (found.excess_bytes == 0) == bool(fitting)


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 3))
@example(304, 4, 3)  # the longest run leaves the next stage an item that is too large for it
def test_with_room_the_largest_load_is_the_smallest_there_is(seed, items, stages):
    of = loads(np.random.default_rng(seed), items, stages, 1e9)
    every = [(0, *cuts) for cuts in itertools.combinations(range(1, items), stages - 1)]
    best = min(max(run_loads(of, starts)) for starts in every)
    assert max(run_loads(of, split_chain(of).starts)) == pytest.approx(best, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(3, 9), st.integers(1, 3), st.floats(0.5, 30))
def test_where_inputs_are_free_a_split_that_fits_is_found_if_there_is_one(seed, items, stages, room):
    of = loads(np.random.default_rng(seed), items, stages, room)
    of.boundary_bytes[:] = 0.0
    every = [(0, *cuts) for cuts in itertools.combinations(range(1, items), stages - 1)]
    least = min(excess(of, starts) for starts in every)
    assert split_chain(of).excess_bytes == pytest.approx(least, rel=1e-6, abs=1e-6)


def test_too_few_items():
    with pytest.raises(PlanError, match="2 items make no 3 stages: ask for fewer stages"):
        split_chain(loads(np.random.default_rng(0), 2, 3, 1.0))


def test_bytes_across_positions():
    found = crossing_bytes(np.array([[0, 2], [1, 2], [0, 0]]), np.array([5.0, 3.0, 9.0]), 4)
    assert found.tolist() == [0.0, 5.0, 8.0, 0.0]
