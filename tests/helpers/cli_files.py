"""Files for the command line: a graph and a cluster of two unequal devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cluster_files import TWO_UNEQUAL
from drlpp.cli.main import run_command_line
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import random_graph


def graph_and_cluster(folder: Path) -> Path:
    """Writes graph.json and cluster.yaml; returns the folder."""
    save_graph(random_graph(np.random.default_rng(5), 24, measured=True), folder / "graph.json")
    (folder / "cluster.yaml").write_text(TWO_UNEQUAL)
    return folder


def plan(files: Path, *more: str) -> int:
    """`drlpp plan` of the two files; returns the status."""
    arguments = ["plan", str(files / "graph.json"), "--cluster", str(files / "cluster.yaml"), "--budget", "1"]
    return run_command_line([*arguments, "--planner", "dp", *more])
