from __future__ import annotations

import numpy as np
import pytest

from chains import cluster_of, looped, placed_chain, random_stages, rows
from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph import Edge, Op, OpGraph, OpTimes
from drlpp.problem import PlanningProblem
from drlpp.schedules.waves import depths


def stage_depths(placed):
    """Devices before each stage, and from each slot to the end."""
    return [each.tolist() for each in depths(placed)]


def warm_up(row: list[str]) -> int:
    """Forward passes before the first backward pass."""
    return next(i for i, text in enumerate(row) if "F" not in text)


def diamond(devices, num_microbatches=8):
    """0 -> 1 -> 2 -> 4 and 0 -> 3 -> 4."""
    times = {"reference": OpTimes(1.0, 1.0, 1.0)}
    ops = tuple(Op(name=f"o{i}", kind="x", times=times) for i in range(5))
    arcs = [(0, 1), (1, 2), (2, 4), (0, 3), (3, 4)]
    edges = tuple(Edge(src=f"o{a}", dst=f"o{b}", tensor=f"t{a}") for a, b in arcs)
    graph = OpGraph(name="diamond", ops=ops, edges=edges, tensor_bytes={f"t{i}": 1.0 for i in range(5)})
    problem = PlanningProblem.build(graph, cluster_of(6))
    return place_stages(stage_costs(problem, np.arange(5), 5), problem.cluster, devices, num_microbatches)


def test_warm_up_is_the_longest_path_to_the_end():
    placed = diamond([(0,), (1,), (2,), (3,), (4,)])
    assert stage_depths(placed) == [[0, 1, 2, 1, 3], [4, 3, 2, 2, 1]]
    assert [warm_up(row) for row in rows("1f1b", placed).values()] == [4, 3, 2, 2, 1]
    assert [warm_up(row) for row in rows("eager-1f1b", placed).values()] == [6, 4, 3, 3, 1]
    assert [warm_up(row) for row in rows("gpipe", placed).values()] == [8] * 5


def test_replicas_count_as_devices_on_the_path():
    placed = diamond([(0,), (1, 5), (2,), (3,), (4,)])
    assert stage_depths(placed)[1] == [5, 4, 4, 2, 2, 1]
    schedule = rows("1f1b", placed)
    assert warm_up(schedule[0]) == 5
    assert [warm_up(schedule[d]) for d in (1, 5)] == [2, 2]


def test_a_replica_of_a_small_share_counts_as_the_micro_batches_that_go_by():
    placed = placed_chain([(0,), (1, 2)], 8, ((), (3, 1)))
    assert stage_depths(placed) == [[0, 1], [5, 1, 4]]
    schedule = rows("1f1b", placed)
    assert warm_up(schedule[0]) == 5
    assert schedule[1] == [f"1{kind}{m}" for m in (0, 1, 2, 4, 5, 6) for kind in "FB"]
    assert schedule[2] == ["1F3", "1B3", "1F7", "1B7"]


def test_replicas_take_turns():
    schedule = rows("1f1b", placed_chain([(1, 0)], 4))
    assert schedule == {0: ["0F1", "0B1", "0F3", "0B3"], 1: ["0F0", "0B0", "0F2", "0B2"]}


@pytest.mark.parametrize("name", ["1f1b", "eager-1f1b", "gpipe", "zero-bubble"])
def test_every_action_runs_once(name):
    for seed in range(50):
        placed = random_stages(seed)
        texts = [text for row in rows(name, placed).values() for text in row]
        kinds = "FIW" if name == "zero-bubble" else "FB"
        expected = {
            f"{s}{kind}{m}"
            for s in range(len(placed.slot_off) - 1)
            for kind in kinds
            for m in range(placed.num_microbatches)
        }
        assert len(texts) == len(expected)
        assert set(texts) == expected


def test_split_backward_pass_delays_weights_by_the_devices_before():
    schedule = rows("zero-bubble", placed_chain(looped(3, 1), 4))
    assert schedule[0] == ["0F0", "0F1", "0F2", "0I0", "0W0", "0F3", "0I1", "0W1", "0I2", "0W2", "0I3", "0W3"]
    assert schedule[2] == ["2F0", "2I0", "2F1", "2I1", "2F2", "2I2", "2W0", "2F3", "2I3", "2W1", "2W2", "2W3"]
