"""Which device each global rank of an engine belongs on, and how processes are started so that it gets there.

A launcher numbers ranks through the nodes that it starts, in order, and a process takes the visible device of its
local rank. A *node* here is one call of a launcher: a run of successive ranks whose devices are on one host. The
lines that this module writes name, for each node, its host and the devices that are visible to it, so that every
rank lands on its device whatever the order of the plan. Source: torch/distributed/run.py.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from drlpp.cluster import Cluster
from drlpp.export.pipelines import Pipeline


class Node(NamedTuple):
    """One call of a launcher: the host's name, and the numbers on that host of the devices of its ranks, in order."""

    host: str
    local_devices: tuple[int, ...]

    @property
    def visible(self) -> str:
        """The value of ``CUDA_VISIBLE_DEVICES``."""
        return ",".join(map(str, self.local_devices))


def ranks_by_stage(pipeline: Pipeline) -> tuple[int, ...]:
    """The device of each global rank: pipeline ranks, in each its copies, in each their devices (as Megatron-LM)."""
    by_rank = zip(*pipeline.groups, strict=True)
    return tuple(device for copies in by_rank for group in copies for device in group)


def ranks_by_copy(pipeline: Pipeline) -> tuple[int, ...]:
    """The device of each global rank: copies, in each its pipeline ranks, in each its devices (vLLM, SGLang)."""
    return tuple(itertools.chain(*pipeline.copies))


def nodes(cluster: Cluster, ranks: tuple[int, ...]) -> tuple[Node, ...]:
    """The calls of a launcher that put every rank on its device. Args: `ranks`: the device of each global rank."""
    local = local_numbers(cluster)
    runs = itertools.groupby(ranks, key=lambda d: cluster.devices[d].host)
    return tuple(Node(cluster.hosts[host].name, tuple(local[d] for d in run)) for host, run in runs)


def equal_nodes(cluster: Cluster, copies: tuple[tuple[int, ...], ...]) -> tuple[Node, ...]:
    """Nodes of equally many ranks, as few as can be, each within one copy; those of a copy follow one another.

    Args:
        copies: per copy, its devices (`Pipeline.copies`).
    """
    runs = [node for copy in copies for node in nodes(cluster, copy)]
    size = math.gcd(*(len(node.local_devices) for node in runs))
    return tuple(
        Node(node.host, node.local_devices[k : k + size])
        for node in runs
        for k in range(0, len(node.local_devices), size)
    )


def local_numbers(cluster: Cluster) -> list[int]:
    """Per device, its number on its host."""
    seen = [0] * len(cluster.hosts)
    out = []
    for device in cluster.devices:
        out.append(seen[device.host])
        seen[device.host] += 1
    return out


def rank_comment(cluster: Cluster, ranks: tuple[int, ...], rule: str) -> str:
    """A comment: the device of each global rank. Args: `rule`: how the engine numbers ranks."""
    return f"# Devices (their numbers in {cluster.name}) of global ranks 0, 1, ..., with {rule}: " + ", ".join(
        map(str, ranks)
    )


def stage_major(pipeline: Pipeline) -> str:
    """The rule of `ranks_by_stage`, for `rank_comment`."""
    return _rule("pipeline rank x copies + copy", pipeline)


def copy_major(pipeline: Pipeline) -> str:
    """The rule of `ranks_by_copy`, for `rank_comment`."""
    return _rule("copy x pipeline ranks + pipeline rank", pipeline)


def _rule(rule: str, pipeline: Pipeline) -> str:
    degree = len(pipeline.groups[0][0])
    return f"rank = {rule}" if degree == 1 else f"rank = ({rule}) x {degree} + tensor-parallel rank"


def shell_nodes(found: Sequence[Node]) -> list[str]:
    """Shell arrays of nodes by node rank: ``NODE_HOSTS`` and ``NODE_GPUS``."""
    hosts = " ".join(shlex.quote(node.host) for node in found)
    visible = " ".join(f'"{node.visible}"' for node in found)
    return [f"NODE_HOSTS=({hosts})", f"NODE_GPUS=({visible})"]


START_NODE = """start_node() {  # NODE_RANK SCRIPT [ARGUMENT...]: starts the processes of one node
    local node=$1 gpus=${NODE_GPUS[$1]}
    local commas=${gpus//[^,]/}
    shift
    CUDA_VISIBLE_DEVICES=$gpus torchrun --nnodes "${#NODE_HOSTS[@]}" --node-rank "$node" \\
        --nproc-per-node "$((${#commas} + 1))" --master-addr "${NODE_HOSTS[0]}" \\
        --master-port "${MASTER_PORT:-29500}" "$@"
}"""
"""A shell function over the arrays of `shell_nodes`; every host runs it once for each node that is on it."""
