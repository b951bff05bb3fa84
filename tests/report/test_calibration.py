"""The table of a calibration names what was hardly measured."""

from __future__ import annotations

from rich.console import Console

from drlpp.cost.calibration import calibrate, measurements, summary
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.report.calibration import calibration_table
from drlpp.sim import simulate
from plan_cases import make_plan


def test_what_was_not_measured_is_said() -> None:
    graph = chain_graph(4, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
    plan = make_plan(graph, [0, 0, 1, 1], [(0,), (1,)], num_microbatches=4)
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(calibration_table(summary(calibrate([measurements(plan, [simulate(plan).trace])]))))
    lines = captured.get().splitlines()
    assert any("device 0 (cpu)" in line and "1.00" in line for line in lines)
    assert any("network of host h0: seconds per byte" in line and "not measured" in line for line in lines)
