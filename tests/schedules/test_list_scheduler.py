from __future__ import annotations

import numpy as np
import pytest
from chains import looped, placed_chain, random_stages, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.schedules import FlatSchedule, PlacedStages
from drlpp.schedules.list_scheduler import SLACKS, _list_schedule, list_schedule, split_list_schedule
from drlpp.schedules.orders import BACKWARD, FORWARD, WEIGHT_GRAD
from drlpp.schedules.waves import stage_depths


def reserved_peak(placed: PlacedStages, flat: FlatSchedule) -> np.ndarray:
    """``[U]`` bytes in use at most, by the order alone."""
    peaks = []
    for u in range(len(placed.used)):
        size = peak = placed.resident_bytes[u]
        for i in range(flat.offset[u], flat.offset[u + 1]):
            s, kind = flat.stage[i], flat.kind[i]
            held, again = placed.held_bytes[s], placed.again_bytes[s]
            size += {FORWARD: held, BACKWARD: 0, WEIGHT_GRAD: 0}.get(kind, again)
            peak = max(peak, size + (again if kind == BACKWARD else 0))
            size -= {BACKWARD: held, WEIGHT_GRAD: held + again}.get(kind, 0)
        peaks.append(peak)
    return np.array(peaks)


@pytest.mark.parametrize(("p", "m"), [(1, 4), (4, 8), (3, 2)])
def test_uniform_chain_gives_1f1b(p, m):
    placed = placed_chain(looped(p, 1), m)
    assert rows("list", placed) == rows("1f1b", placed)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.booleans(), slack=st.sampled_from(SLACKS))
def test_runs_every_action_once_in_an_order_that_cannot_block(seed, split, slack):
    placed = random_stages(seed)
    _, _, *arrays = _list_schedule(placed, stage_depths(placed).to_sink, slack, split)
    flat = FlatSchedule(*arrays)
    num_stages = len(placed.slot_off) - 1
    actions = list(zip(flat.stage.tolist(), flat.kind.tolist(), flat.microbatch.tolist(), strict=True))
    assert len(set(actions)) == len(actions) == num_stages * placed.num_microbatches * (3 if split else 2)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.booleans())
def test_keeps_to_the_memory_where_one_micro_batch_fits(seed, split):
    placed = random_stages(seed)
    flat = (split_list_schedule if split else list_schedule)(placed)
    one = placed._replace(num_microbatches=1)
    all_stages = placed.held_bytes + placed.again_bytes
    need = placed.resident_bytes.copy()
    for s in range(len(all_stages)):
        need[placed.slot_device[one.slot_off[s] : one.slot_off[s + 1]]] += all_stages[s]
    fits = need <= placed.memory_bytes
    assert (reserved_peak(placed, flat)[fits] <= placed.memory_bytes[fits] * (1 + 1e-12)).all()
