from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chains import looped, placed_chain, random_stages, rows
from drlpp.cost import PlacedStages
from drlpp.schedules import FlatSchedule
from drlpp.schedules.list_scheduler import SLACKS, list_order
from drlpp.schedules.orders import BACKWARD, FORWARD, WEIGHT_GRAD


def held_next_door(placed: PlacedStages) -> np.ndarray:
    """``[L]`` bytes that a slot receives from stages of its device that hold them longer than it does."""
    out = np.zeros(len(placed.slot_device))
    replicas = np.diff(placed.slot_off)
    for k in np.flatnonzero(placed.message_grad):
        src = placed.message_src[k]
        for t in placed.dst[placed.dst_off[k] : placed.dst_off[k + 1]]:
            if placed.again_bytes[src] == 0 and replicas[t] % replicas[src] == 0:
                mine = np.arange(replicas[t])
                there = placed.slot_device[placed.slot_off[src] + mine % replicas[src]]
                same = placed.slot_device[placed.slot_off[t] + mine] == there
                out[placed.slot_off[t] + mine[same]] += placed.message_bytes[k]
    return out


def reserved_peak(placed: PlacedStages, flat: FlatSchedule) -> np.ndarray:
    """``[U]`` bytes in use at most, by the order alone, with all gradients from the start."""
    peaks, shared = [], held_next_door(placed)
    for u in range(len(placed.used)):
        size = peak = placed.resident_bytes[u]
        for i in range(flat.offset[u], flat.offset[u + 1]):
            s, kind = flat.stage[i], flat.kind[i]
            held, again = placed.held_bytes[s], placed.again_bytes[s]
            replicas = placed.slot_off[s + 1] - placed.slot_off[s]
            less = shared[placed.slot_off[s] + flat.microbatch[i] % replicas]
            size += {FORWARD: held - less, BACKWARD: 0, WEIGHT_GRAD: 0}.get(kind, again + less)
            peak = max(peak, size + (again if kind == BACKWARD else 0))
            size -= {BACKWARD: held - less, WEIGHT_GRAD: held + again}.get(kind, 0)
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
    flat = list_order(placed, slack, split=split).order
    num_stages = len(placed.slot_off) - 1
    actions = list(zip(flat.stage.tolist(), flat.kind.tolist(), flat.microbatch.tolist(), strict=True))
    assert len(set(actions)) == len(actions) == num_stages * placed.num_microbatches * (3 if split else 2)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), split=st.booleans(), slack=st.sampled_from(SLACKS))
def test_keeps_to_the_memory_where_one_micro_batch_fits(seed, split, slack):
    placed = random_stages(seed)
    flat = list_order(placed, slack, split=split).order
    one = placed._replace(num_microbatches=1)
    all_stages = placed.held_bytes + placed.again_bytes
    need = placed.resident_bytes.copy()
    for s in range(len(all_stages)):
        need[placed.slot_device[one.slot_off[s] : one.slot_off[s + 1]]] += all_stages[s]
    fits = need <= placed.memory_bytes
    assert (reserved_peak(placed, flat)[fits] <= placed.memory_bytes[fits] * (1 + 1e-12)).all()


def test_is_given_up_when_it_cannot_end_in_time():
    placed = placed_chain(looped(3, 1), 6)
    last = list_order(placed, 1.0, split=False).last_s
    assert list_order(placed, 1.0, split=False, give_up_s=last * 1.001).last_s == last
    assert list_order(placed, 1.0, split=False, give_up_s=last / 2).last_s == np.inf
