"""What a trace says of costs: each action, message and sum once, with what it took."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.cost.calibration.measured import measurements
from drlpp.errors import InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.sim import simulate
from plan_cases import make_plan
from wrong_costs import noisy_trace

GRAPH = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
PLAN = make_plan(GRAPH, [0, 0, 1, 1], [(0,), (1, 2)], num_microbatches=4, recompute=(0,))


def test_a_simulated_step() -> None:
    found = measurements(PLAN, [simulate(PLAN).trace])
    actions = {(a.stage, a.device, a.kind): a.seconds for a in found.actions}
    assert {k: round(s.typical_s, 9) for k, s in actions.items()} == {
        (0, 0, "F"): 0.002,
        (0, 0, "B"): 0.006,  # with the second forward pass
        (1, 1, "F"): 0.002,
        (1, 1, "B"): 0.004,
        (1, 2, "F"): 0.002,
        (1, 2, "B"): 0.004,
    }
    assert actions[0, 0, "F"].count == 4
    assert actions[1, 1, "F"].count == 2
    assert {(t.src, t.dst, t.bytes) for t in found.transfers} == {(0, 1, 1e6), (1, 0, 1e6), (0, 2, 1e6), (2, 0, 1e6)}
    assert [(a.devices, a.bytes) for a in found.all_reduces] == [((1, 2), 2e6)]
    assert found.iteration_time_s == pytest.approx(simulate(PLAN).prediction.iteration_time_s)


def test_sums_of_divided_states_are_left_out() -> None:
    divided = dataclasses.replace(PLAN, training=dataclasses.replace(PLAN.training, zero1=True))
    found = measurements(divided, [simulate(divided).trace])
    assert not found.all_reduces
    assert len(found.actions) == 6


def test_more_steps_are_more_exact() -> None:
    rng = np.random.default_rng(0)
    traces = [noisy_trace(rng, PLAN, PLAN.cluster, PLAN.graph, 0.2) for _ in range(16)]
    few, many = measurements(PLAN, traces[:2]).actions[0].seconds, measurements(PLAN, traces).actions[0].seconds
    assert many.deviation < few.deviation
    assert many.typical_s == pytest.approx(0.002, rel=4 * many.deviation)


def test_traces_of_something_else_are_refused() -> None:
    other = make_plan(GRAPH, [0, 0, 1, 1], [(0,), (1, 3)], num_microbatches=4)
    with pytest.raises(InputError, match="give at least one measured step"):
        measurements(PLAN, [])
    with pytest.raises(InputError, match=r"only the (plan|trace) has action 1\w\d on device \d: give the trace of"):
        measurements(PLAN, [simulate(other).trace])
    with pytest.raises(InputError, match="not a step of this plan"):
        measurements(PLAN, [dataclasses.replace(simulate(PLAN).trace, num_devices=7)])
