"""The simulator on plans whose groups divide ops, against the evaluator; and what their members do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drlpp.cost.groups import lifted
from drlpp.plan import Provenance
from drlpp.sim import Evaluator, simulate
from random_groups import random_grouped_problem


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_equals_the_evaluator(seed):
    problem, grouping, made, assignment = random_grouped_problem(seed)
    plan = lifted(Evaluator(made).make_plan(assignment, Provenance(planner="test")), problem.cluster, grouping)
    simulation = simulate(plan)
    fast, reference = plan.prediction, simulation.prediction
    assert fast.iteration_time_s == pytest.approx(reference.iteration_time_s, rel=1e-9)
    assert fast.peak_memory_bytes == pytest.approx(reference.peak_memory_bytes, rel=1e-9, abs=1e-2)
    assert fast.bubble_fraction == pytest.approx(reference.bubble_fraction, abs=1e-9)
    assert fast.bottleneck_s == pytest.approx(reference.bottleneck_s, rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_members_of_a_group_do_the_same(seed):
    problem, grouping, made, assignment = random_grouped_problem(seed)
    plan = lifted(Evaluator(made).make_plan(assignment, Provenance(planner="test")), problem.cluster, grouping)
    simulation = simulate(plan)
    assert simulation.plan is plan
    for group in grouping.groups:
        alike = [
            [
                (e.kind, e.stage, e.microbatch, e.start_s)
                for e in simulation.trace.events
                if e.device == d and e.stream == "compute"
            ]
            for d in group
        ]
        assert all(events == alike[0] for events in alike)
        assert len({simulation.trace.memory[d] for d in group}) == 1
    for transfer in simulation.transfers:
        names = [name for name in transfer.resources if "->" in name]
        assert names in ([], [f"{transfer.src}->{transfer.dst}"])
        assert all(name in simulation.busy_s for name in transfer.resources)
