"""The choice among schedules: nothing better is left out, and `list` is never worse than a named schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains import looped, placed_chain, random_stages
from drlpp.schedules import SCHEDULES, PlacedStages, generate, schedules_for
from drlpp.schedules.arena import entry, take, with_arena
from drlpp.schedules.choice import SPLIT_BACKWARD_COST, choose, lower_bound
from drlpp.schedules.registry import empty_order, schedule_flags
from drlpp.schedules.replay import replay

SLIGHTLY = 1 + 1e-9


@entry
def run_choose(arena, placed, wanted, give_up_s, peak, order):
    return choose(arena, placed, wanted, give_up_s, peak, order)


@entry
def run_bound(arena, placed, split):
    number = len(placed.used)
    return lower_bound(arena, placed, split, take(arena.reals, number)[0], take(arena.reals, number)[0])


def best_of(placed: PlacedStages, names: tuple[str, ...] | None, give_up_s: float = np.inf) -> tuple[str, float, float]:
    """Name, seconds and bytes over the memory."""
    wanted, peak, order = schedule_flags(names), np.empty(len(placed.used)), empty_order(0, 0)
    (kind, time, over), _ = with_arena(lambda arena: run_choose(arena, placed, wanted, give_up_s, peak, order))
    return list(SCHEDULES)[kind], time, over


def value(placed: PlacedStages, name: str) -> tuple[float, float]:
    """Bytes over the memory and seconds of one schedule."""
    time, peak = replay(placed, generate(name, placed))
    return max(0.0, float((peak - placed.memory_bytes).max())), time


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from(["random", "looped"]))
def test_list_is_never_worse_than_a_named_schedule(seed, shape):
    placed = random_stages(seed) if shape == "random" else placed_chain(looped(1 + seed % 4, 2), 4)
    names = schedules_for(placed)
    for listed in {"list", "split-list"} & set(names):
        over, time = value(placed, listed)
        for name in names:
            if SCHEDULES[name].splits_backward == SCHEDULES[listed].splits_backward:
                other_over, other = value(placed, name)
                assert (over, time) <= (other_over, other * SLIGHTLY), name


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_choice_is_the_best_of_all_one_by_one(seed):
    placed = random_stages(seed)
    name, time, over = best_of(placed, None)
    assert value(placed, name) == (over, time)
    keys = []
    for each in schedules_for(placed):
        each_over, each_time = value(placed, each)
        keys.append((each_over, each_time * (1 + SPLIT_BACKWARD_COST * SCHEDULES[each].splits_backward)))
    cost = 1 + SPLIT_BACKWARD_COST * SCHEDULES[name].splits_backward
    assert (over, time * cost) == pytest.approx(min(keys), rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_schedule_beats_the_lower_bound(seed):
    placed = random_stages(seed)
    bounds = [with_arena(lambda arena, split=split: run_bound(arena, placed, split))[0] for split in (False, True)]
    for name in schedules_for(placed):
        assert value(placed, name)[1] * SLIGHTLY >= bounds[SCHEDULES[name].splits_backward]


def test_the_bound_of_a_chain_is_1f1b():
    placed = placed_chain(looped(4, 1), 8)
    bound, _ = with_arena(lambda arena: run_bound(arena, placed, False))
    assert bound == pytest.approx(value(placed, "1f1b")[1], rel=1e-9)


def test_the_first_schedule_decides_if_others_are_tried():
    for seed in range(20):
        placed = random_stages(seed)
        over, time = value(placed, "1f1b")
        expected = ("1f1b", time, over) if over == 0 else best_of(placed, None)
        assert best_of(placed, None, give_up_s=time / 2) == expected
        assert best_of(placed, None, give_up_s=2 * time) == best_of(placed, None)
