from __future__ import annotations

import dataclasses

import pytest

from drlpp.cost.schedule_memory import RETURNS_KEPT
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan.action import LOOKAHEAD
from drlpp.problem import PlanningProblem
from drlpp.report.stages import stage_rows
from drlpp.sim import simulate
from hand_plans import make_plan


def test_rows_say_what_is_in_each_stage(plan):
    rows = stage_rows(plan)
    assert [r.num_ops for r in rows] == [1, 2, 2, 3]
    assert [r.modules for r in rows] == ["stem", "blocks", "side", "head"]
    assert [r.devices for r in rows] == [(0,), (1,), (2,), (3, 4)]
    assert rows[3].device_text == "v100 #3-4"
    assert sum(r.time_share for r in rows) == pytest.approx(1.0)
    assert rows[1].forward_s == pytest.approx(2 * rows[0].forward_s)
    assert rows[0].param_bytes == 4e6


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_of_a_device_with_one_stage_is_what_the_simulator_says_but_for_messages(problem, recompute):
    labels = [0, 1, 1, 2, 2, 3, 3, 3]
    plan = make_plan(problem, labels, [(0,), (1,), (2,), (3,)], "hand", recompute=(False, recompute, False, False))
    stage = dict(zip((op.name for op in problem.graph.ops), labels, strict=True))
    crossing = [e for e in problem.graph.edges if stage[e.src] != stage[e.dst]]
    peaks = simulate(plan).prediction.peak_memory_bytes
    for row in stage_rows(plan):
        at = [problem.graph.tensor_bytes[e.tensor] for e in crossing if row.index in (stage[e.src], stage[e.dst])]
        assert 0 <= peaks[row.devices[0]] - row.memory_bytes <= (1 + LOOKAHEAD + RETURNS_KEPT) * sum(at)
    assert stage_rows(plan)[1].remark == ("recomputes" if recompute else "")


def test_unequal_shares_are_told_in_micro_batches(problem):
    plan = make_plan(problem, [0] * 8, [(0, 1, 7)], "hand", shares=((6, 6, 1),))
    (row,) = stage_rows(plan)
    assert plan.num_microbatches == 8
    assert row.remark == "micro-batches: 4 on #0-1, 0 on #7"


def test_modules_that_are_split_are_called_so(problem):
    rows = stage_rows(make_plan(problem, [0, 0, 0, 0, 0, 0, 1, 1], [(0,), (1,)], "hand"))
    assert rows[0].modules == "stem, blocks, side; part of head"
    assert rows[1].modules == "head.fc"


def test_graphs_without_modules_show_names_of_ops(problem):
    chain = PlanningProblem(chain_graph(60), problem.cluster, problem.training)
    rows = stage_rows(make_plan(chain, [0] * 55 + [1] * 5, [(0,), (1,)], "hand"))
    assert rows[0].modules == "op0-39 and 15 more ops"
    assert rows[1].modules == "op55-59"


def test_time_is_that_of_the_slowest_replica(plan, problem):
    mixed = make_plan(problem, [0] * 8, [(0, 7)], "hand")
    (row,) = stage_rows(mixed)
    alone = stage_rows(dataclasses.replace(make_plan(problem, [0] * 8, [(7,)], "hand")))[0]
    assert row.forward_s == pytest.approx(alone.forward_s)
    assert row.device_types == ("a100", "t4")
