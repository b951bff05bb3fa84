"""The summary has the factor of every device, class and link, with its deviation."""

from __future__ import annotations

import dataclasses

import pytest

from drlpp.cost.calibration import calibrate, measurements, summary
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.sim import simulate
from plan_cases import make_plan


def test_factors_of_a_machine_that_is_twice_as_slow() -> None:
    graph = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
    plan = make_plan(graph, [0, 1, 2, 3], [(0,), (1,), (2,), (3,)], num_microbatches=4)
    slow = dataclasses.replace(plan, graph=chain_graph(4, forward_s=2e-3, tensor_bytes=1e6, param_bytes=1e6))
    found = summary(calibrate([measurements(plan, [simulate(slow).trace])]))
    for row in found["devices"]:
        assert row["value"] == pytest.approx(2.0, rel=0.03)
        assert row["deviation"] < 0.05
        assert row["type"] == row["calibrated_type"] == "cpu"
    assert [(row["type"], row["op_class"]) for row in found["op_classes"]] == [("cpu", "memory")]
    assert found["op_classes"][0]["backward"]["value"] == pytest.approx(2.0, rel=0.03)
    assert [(row["scope"], row["host"]) for row in found["links"]] == [
        ("inside", "h0"),
        ("network", "h0"),
        ("inside", "h2"),
        ("network", "h2"),
    ]
    assert found["links"][0]["seconds_per_byte"]["value"] == pytest.approx(1.0, rel=0.05)
