"""`drlpp whatif`."""

import dataclasses
import json

import pytest

from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import chain_graph


@pytest.fixture
def files(tmp_path):
    graph = chain_graph(8, forward_s=1e-3, tensor_bytes=1e5, param_bytes=1e6)
    layers = [f"layers.{i // 2}" for i in range(8)]
    ops = tuple(dataclasses.replace(op, module=m) for op, m in zip(graph.ops, layers, strict=True))
    save_graph(dataclasses.replace(graph, ops=ops), tmp_path / "graph.json")
    save_graph(graph, tmp_path / "no-modules.json")
    (tmp_path / "cluster.yaml").write_text(TWO_UNEQUAL)
    return tmp_path


def call(files, verb, *more, graph="graph.json"):
    arguments = [verb, str(files / graph), "--cluster", str(files / "cluster.yaml"), "--planner", "dp"]
    return run_command_line([*arguments, "--budget", "0.3", *more])


def test_whatif_prints_a_ranking(files, capsys):
    assert call(files, "whatif") == 0
    captured = capsys.readouterr()
    assert "twice the micro-batches" in captured.out
    assert "learning rate" in captured.err
    assert call(files, "whatif", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["as_it_is"]["status"] == "ok"
    speeds = [row["throughput_samples_per_s"] for row in answer["changes"]]
    assert speeds == sorted(speeds, reverse=True)


def test_whatif_without_any_plan_is_status_3(files, capsys):
    (files / "cluster.yaml").write_text(TWO_UNEQUAL.replace("16GB", "1kB"))
    assert call(files, "whatif", "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["as_it_is"]["status"] == "infeasible"
    assert "no plan fits, with or without a change" in captured.err
