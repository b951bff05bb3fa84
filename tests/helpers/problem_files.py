"""A small problem in files, and verbs of the command line on it."""

import dataclasses

from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import chain_graph


def problem_files(folder):
    """A chain with and without modules and a cluster, in a folder."""
    graph = chain_graph(8, forward_s=1e-3, tensor_bytes=1e5, param_bytes=1e6)
    layers = [f"layers.{i // 2}" for i in range(8)]
    ops = tuple(dataclasses.replace(op, module=m) for op, m in zip(graph.ops, layers, strict=True))
    save_graph(dataclasses.replace(graph, ops=ops), folder / "graph.json")
    save_graph(graph, folder / "no-modules.json")
    (folder / "cluster.yaml").write_text(TWO_UNEQUAL)
    return folder


def planned(files, verb, *more, graph="graph.json"):
    """Runs a verb on them with the planner `dp`."""
    arguments = [verb, str(files / graph), "--cluster", str(files / "cluster.yaml"), "--planner", "dp"]
    return run_command_line([*arguments, "--budget", "0.3", *more])
