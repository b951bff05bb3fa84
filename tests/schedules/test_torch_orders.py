"""Schedules of chains against torch.distributed.pipelining: equal orders, and accepted by its validator.

The only place that uses torch's private names.
"""

from __future__ import annotations

import pytest
import torch.distributed.pipelining.schedules as torch_schedules

from chains import looped, placed_chain, rows, v_shaped
from drlpp.schedules import schedules_for


def torch_rows(kind: type, p: int, num_stages: int, num_microbatches: int) -> dict[int, list[str]]:
    """The compute actions of torch's schedule; its generators need no process group, only these attributes."""
    schedule = object.__new__(kind)
    schedule._n_microbatches = num_microbatches
    schedule._num_stages = schedule.num_stages = num_stages
    schedule.pp_group_size, schedule.n_local_stages = p, num_stages // p
    rounds = max(1, num_microbatches // p)
    schedule.microbatches_per_round = num_microbatches // rounds
    if hasattr(schedule, "_get_pipeline_order"):
        order = schedule._get_pipeline_order()
    else:
        order = {rank: schedule._calculate_single_rank_operations(rank) for rank in range(p)}
    kinds = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}
    return {
        rank: [
            f"{a.stage_index}{kinds[a.computation_type.name]}{a.microbatch_index}"
            for a in actions
            if a is not None and a.computation_type.name in kinds
        ]
        for rank, actions in order.items()
    }


@pytest.mark.parametrize(("p", "m"), [(1, 1), (2, 4), (4, 8), (4, 3), (8, 5), (5, 16)])
def test_gpipe(p, m):
    assert rows("gpipe", placed_chain(looped(p, 1), m)) == torch_rows(torch_schedules.ScheduleGPipe, p, p, m)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 4), (5, 16)])
def test_1f1b(p, m):
    ours = rows("1f1b", placed_chain(looped(p, 1), m))
    theirs = torch_rows(torch_schedules.Schedule1F1B, p, p, m)
    # torch 2.14 numbers the forward passes of the last rank from 1 in this table (not in what it runs)
    theirs[p - 1] = [f"{p - 1}F{int(x.split('F')[1]) - 1}" if "F" in x else x for x in theirs[p - 1]]
    assert ours == theirs


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 12), (3, 7), (8, 16)])
def test_zero_bubble_with_one_stage_per_rank(p, m):
    assert rows("zero-bubble", placed_chain(looped(p, 1), m)) == torch_rows(
        torch_schedules.ScheduleInterleavedZeroBubble, p, p, m
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("interleaved-1f1b", torch_schedules.ScheduleInterleaved1F1B),
        ("interleaved-zero-bubble", torch_schedules.ScheduleInterleavedZeroBubble),
    ],
)
@pytest.mark.parametrize(
    ("p", "n", "m"), [(2, 2, 4), (4, 2, 8), (4, 3, 4), (3, 2, 6), (2, 4, 3), (4, 2, 10), (2, 2, 1)]
)
def test_interleaved(name, kind, p, n, m):
    assert rows(name, placed_chain(looped(p, n), m)) == torch_rows(kind, p, p * n, m)


@pytest.mark.parametrize(("p", "m"), [(1, 2), (2, 4), (4, 8), (4, 3), (3, 7), (5, 20)])
def test_zbv(p, m):
    assert rows("zbv", placed_chain(v_shaped(p), m)) == torch_rows(torch_schedules.ScheduleZBVZeroBubble, p, 2 * p, m)


@pytest.mark.parametrize("devices", [looped(4, 1), looped(4, 2), looped(2, 3), v_shaped(4), [(0,), (0,), (1,), (2,)]])
@pytest.mark.parametrize("m", [1, 4, 8])
def test_torch_accepts_every_schedule(devices, m):
    placed = placed_chain(devices, m)
    for name in schedules_for(placed):
        actions = {
            rank: [torch_schedules._Action.from_str(text) for text in row] for rank, row in rows(name, placed).items()
        }
        mapping = torch_schedules._validate_schedule(actions, len(placed.used), len(devices), m)
        assert mapping == {s: replicas[0] for s, replicas in enumerate(devices)}
