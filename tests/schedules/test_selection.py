"""The choice among schedules: nothing better is left out, and `list` is never worse than a named schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains import looped, placed_chain, random_stages
from drlpp.cost import PlacedStages
from drlpp.schedules import SCHEDULES, generate, schedules_for
from drlpp.schedules.registry import schedule_flags
from drlpp.schedules.replay import replay
from drlpp.schedules.selection import SPLIT_BACKWARD_COST, select, work_bound

SLIGHTLY = 1 + 1e-9


def best_of(placed: PlacedStages, names: tuple[str, ...] | None, give_up_s: float = np.inf) -> tuple[str, float, float]:
    """Name, seconds and bytes over the memory."""
    best = select(placed, schedule_flags(names), give_up_s)
    return list(SCHEDULES)[best.kind], best.time_s, best.over_bytes


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
    bounds = [work_bound(placed, split=split).time_s for split in (False, True)]
    for name in schedules_for(placed):
        assert value(placed, name)[1] * SLIGHTLY >= bounds[SCHEDULES[name].splits_backward]


def test_the_bound_of_a_chain_is_1f1b():
    placed = placed_chain(looped(4, 1), 8)
    bound = work_bound(placed, split=False).time_s
    assert bound == pytest.approx(value(placed, "1f1b")[1], rel=1e-9)


def test_the_first_schedule_decides_if_others_are_tried():
    for seed in range(20):
        placed = random_stages(seed)
        over, time = value(placed, "1f1b")
        expected = ("1f1b", time, over) if over == 0 else best_of(placed, None)
        assert best_of(placed, None, give_up_s=time / 2) == expected
        assert best_of(placed, None, give_up_s=2 * time) == best_of(placed, None)


def test_no_schedule_is_chosen_if_none_is_wanted():
    placed = placed_chain(looped(2, 1), 2)
    assert select(placed, np.zeros(len(SCHEDULES), dtype=bool)).kind == -1


def test_other_flags_are_refused():
    placed = placed_chain(looped(2, 1), 2)
    with pytest.raises(ValueError, match="wanted has 3 elements: it needs 9"):
        select(placed, np.ones(3, dtype=bool))
    with pytest.raises(TypeError, match="wanted has dtype int64: it must be bool"):
        select(placed, np.ones(9, dtype=np.int64))
