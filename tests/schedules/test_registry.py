from __future__ import annotations

import numpy as np
import pytest

from chains import cluster_of, looped, placed_chain, v_shaped
from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import ScheduleError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem
from drlpp.schedules import SCHEDULES, generate, schedules_for
from drlpp.schedules.orders import to_schedule

ALWAYS = ("1f1b", "eager-1f1b", "gpipe", "zero-bubble", "list", "split-list")


def test_which_schedules_apply():
    assert set(schedules_for(placed_chain(looped(4, 1), 8))) == set(ALWAYS)
    assert set(schedules_for(placed_chain(looped(4, 2), 8))) - set(ALWAYS) == {
        "interleaved-1f1b",
        "interleaved-zero-bubble",
    }
    assert set(schedules_for(placed_chain(v_shaped(4), 8))) - set(ALWAYS) == {"zbv"}
    assert set(schedules_for(placed_chain([(0, 1), (0, 1)], 8))) == set(ALWAYS)
    assert all(kind.summary for kind in SCHEDULES.values())


def test_split_schedules_need_weight_gradients():
    placed = placed_chain(looped(2, 2), 4)
    placed.action_s[3] = 0.0
    assert set(schedules_for(placed)) == {"1f1b", "eager-1f1b", "gpipe", "interleaved-1f1b", "list"}


def test_actions_by_rank():
    problem = PlanningProblem.build(chain_graph(2), cluster_of(3))
    placed = place_stages(stage_costs(problem, np.arange(2), 2), problem.cluster, [(2,), (0,)], 2)
    schedule = to_schedule(generate("1f1b", placed), placed.used)
    assert {rank: " ".join(map(str, row)) for rank, row in schedule.items()} == {
        0: "1F0 1B0 1F1 1B1",
        2: "0F0 0F1 0B0 0B1",
    }


def test_unknown_and_inapplicable_names_are_errors():
    placed = placed_chain(looped(4, 1), 8)
    with pytest.raises(ScheduleError, match="'fastest' is not known: use one of 1f1b"):
        generate("fastest", placed)
    with pytest.raises(ScheduleError, match="'zbv' does not apply to this placement: use one of 1f1b"):
        generate("zbv", placed)
