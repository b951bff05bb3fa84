"""`drlpp calibrate`: a trace in, a graph and a cluster out that predict what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from drlpp.cli.main import run_command_line
from drlpp.cluster import load_cluster
from drlpp.export.chrome_trace import chrome_trace
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.graph.readers import read_graph
from drlpp.plan import Plan, save_plan
from drlpp.sim import simulate
from plan_cases import make_plan
from wrong_costs import noisy_trace, true_cluster


@pytest.fixture
def ran(tmp_path: Path) -> tuple[Plan, float]:
    """A plan and its trace in files, and what a step really takes."""
    rng = np.random.default_rng(3)
    graph = chain_graph(8, forward_s=1e-3, tensor_bytes=1e6, param_bytes=1e6)
    plan = make_plan(graph, [0, 0, 1, 1, 2, 2, 3, 3], [(0,), (1,), (2,), (3,)], num_microbatches=8)
    real = true_cluster(rng, plan.cluster)
    save_plan(plan, tmp_path / "plan.json")
    (tmp_path / "trace.json").write_text(chrome_trace(noisy_trace(rng, plan, real, graph, 0.05)))
    return plan, simulate(dataclasses.replace(plan, cluster=real)).prediction.iteration_time_s


def test_files_with_measured_costs(tmp_path: Path, ran: tuple[Plan, float], capsys: pytest.CaptureFixture[str]) -> None:
    plan, really_s = ran
    arguments = ["calibrate", str(tmp_path / "plan.json"), "--trace", str(tmp_path / "trace.json")]
    files = ["-o", str(tmp_path / "graph.json"), "--cluster-out", str(tmp_path / "cluster.yaml")]
    assert run_command_line([*arguments, *files, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["measured_iteration_time_s"] == pytest.approx(really_s, rel=0.05)
    assert answer["calibrated_iteration_time_s"] == pytest.approx(really_s, rel=0.03)
    assert abs(answer["predicted_iteration_time_s"] / really_s - 1) > 0.1
    assert [row["device"] for row in answer["devices"]] == [0, 1, 2, 3]
    assert {row["scope"] for row in answer["links"]} == {"inside", "network"}
    made = dataclasses.replace(
        plan, graph=read_graph(tmp_path / "graph.json"), cluster=load_cluster(str(tmp_path / "cluster.yaml"))
    )
    assert simulate(made).prediction.iteration_time_s == pytest.approx(really_s, rel=0.03)


def test_a_table(tmp_path: Path, ran: tuple[Plan, float], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", str(tmp_path / "plan.json")]
    trace = ["--trace", str(tmp_path / "trace.json")]
    assert run_command_line([*arguments, *trace, *trace]) == 0
    text = capsys.readouterr().out
    assert "device 3 (cpu)" in text
    assert "with calibrated costs" in text
    (tmp_path / "trace.json").write_text("{}")
    assert run_command_line([*arguments, *trace]) == 2
    assert "is not a trace of DRL-PP" in capsys.readouterr().err
