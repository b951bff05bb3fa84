"""Where ranks land, down to real launchers that start processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from drlpp.export.pipelines import as_pipeline
from drlpp.export.ranks import START_NODE, Node, equal_nodes, nodes, ranks_by_copy, ranks_by_stage, shell_nodes
from exported_models import cluster, plan_by_modules


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_ranks_of_copies(language_model):
    pipeline = as_pipeline(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]), "X")
    assert ranks_by_stage(pipeline) == (0, 2, 1, 3)
    assert ranks_by_copy(pipeline) == (0, 1, 2, 3)


def test_nodes_are_runs_of_ranks_on_one_host():
    assert nodes(cluster(2, 2), (0, 1, 2, 3)) == (Node("h0", (0, 1)), Node("h1", (0, 1)))
    assert nodes(cluster(2, 2), (3, 0, 1)) == (Node("h1", (1,)), Node("h0", (0, 1)))


def test_equal_nodes_lie_within_copies():
    assert equal_nodes(cluster(2, 4), ((0, 1, 2, 3), (4, 5, 6, 7))) == (
        Node("h0", (0, 1, 2, 3)),
        Node("h1", (0, 1, 2, 3)),
    )
    assert equal_nodes(cluster(2, 4), ((0, 1, 4), (2, 3, 5))) == tuple(
        Node(host, (d,)) for host, d in (("h0", 0), ("h0", 1), ("h1", 0), ("h0", 2), ("h0", 3), ("h1", 1))
    )


def test_the_shell_function_puts_every_rank_on_its_device(tmp_path):
    """Three calls of torchrun on this machine, of 1, 2 and 1 processes."""
    launcher = tmp_path / "torchrun"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    launcher.chmod(0o755)
    program = tmp_path / "where.py"
    program.write_text(
        "import os\n"
        "seen = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
        "line = f\"{os.environ['RANK']} {os.environ['WORLD_SIZE']} {seen[int(os.environ['LOCAL_RANK'])]}\"\n"
        "os.write(1, line.encode() + b'\\n')\n"  # at once, since two processes share the pipe
    )
    found = [Node("127.0.0.1", (1,)), Node("localhost", (0, 2)), Node("127.0.0.1", (3,))]
    script = tmp_path / "nodes.sh"
    script.write_text("\n".join([*shell_nodes(found), START_NODE]) + "\n")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASTER_PORT": str(free_port())}

    def start(node: int) -> str:
        command = f". {script}; start_node {node} {program}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=300, check=True
        )
        return done.stdout

    with ThreadPoolExecutor(3) as pool:
        printed = "".join(pool.map(start, range(3)))
    assert sorted(printed.splitlines()) == ["0 4 1", "1 4 0", "2 4 2", "3 4 3"]
