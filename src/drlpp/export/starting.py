"""How `drlpp run` is started on the hosts of a plan: one torchrun on each, in the order in which it numbers devices.

Rank r of `drlpp run` is the r-th device that the plan uses, so every host needs its place in the order of the cluster:
the rendezvous is static, and a host knows its node rank by its name. Source: torch/distributed/run.py.
"""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

from drlpp.cluster.devices import CPU_PRESET
from drlpp.errors import PlanError
from drlpp.export.ranks import nodes
from drlpp.plan import Plan
from drlpp.plan.validation import check_trains

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
CHECKPOINTS = "checkpoints"
"""The folder of checkpoints, which all hosts share: a job that is started again goes on from the last."""


GRACE_S = 120
"""Between SIGTERM and the end, where a scheduler can be asked for it."""


class Host(NamedTuple):
    """A host of a plan.

    Attributes:
        name: in the cluster file.
        processes: ranks on it.
        visible: the value of ``CUDA_VISIBLE_DEVICES``; empty for CPUs.
        num_devices: in the cluster file, used or not.
    """

    name: str
    processes: int
    visible: str
    num_devices: int


def hosts_of(plan: Plan, tool: str) -> tuple[Host, ...]:
    """The hosts that a plan uses, by node rank.

    Raises:
        PlanError: the plan is for serving, or a host has a name that no machine can have.
    """
    check_trains(plan, "drlpp run")
    sizes = {host.name: len(host.devices) for host in plan.cluster.hosts}
    gpus = has_gpus(plan)
    found = tuple(
        Host(node.host, len(node.local_devices), node.visible if gpus else "", sizes[node.host])
        for node in nodes(plan.cluster, plan.used_devices)
    )
    for host in found:
        if not _NAME.fullmatch(host.name):
            raise PlanError(
                f"{tool} finds hosts by name, but {host.name!r} of cluster {plan.cluster.name!r} is no name of a "
                "machine: use letters, digits, '.', '-' and '_'"
            )
    return found


def check_equal(hosts: tuple[Host, ...], tool: str) -> int:
    """The devices of each host. Raises PlanError if hosts differ in them."""
    for host in hosts[1:]:
        if host.num_devices != hosts[0].num_devices:
            raise PlanError(
                f"{tool} gives all of them as many devices, but {hosts[0].name} has {hosts[0].num_devices} and "
                f"{host.name} {host.num_devices}: export to slurm, or start torchrun by hand"
            )
    return hosts[0].num_devices


def has_gpus(plan: Plan) -> bool:
    """Some device of the cluster is not a CPU."""
    return any(kind.preset != CPU_PRESET for kind in plan.cluster.device_types)


def start_here(hosts: tuple[Host, ...], *, name: str, address: str, port: str, plan: str) -> str:
    """Lines of bash that start the ranks of the host that they run on; options of `drlpp run` are in ``$@``.

    Args:
        name: the variable with the name of this host.
        address, port: words for where the first host listens.
        plan: word for the plan file.
    """
    cases = "\n".join(
        f"{host.name}) node={k} processes={host.processes} gpus={host.visible} ;;" for k, host in enumerate(hosts)
    )
    return f"""case ${name} in
{cases}
*) echo "the plan has no host ${name}" >&2; exit 1 ;;
esac
if [ -n "$gpus" ]; then export CUDA_VISIBLE_DEVICES=$gpus; fi
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={GRACE_S - 20}  # after SIGTERM, for the step under way and a checkpoint
exec torchrun --nnodes {len(hosts)} --node-rank "$node" --nproc-per-node "$processes" \\
    --master-addr {address} --master-port {port} \\
    -m drlpp run {plan} --checkpoint {CHECKPOINTS} "$@"
"""


def indented(text: str) -> str:
    """The lines of a function's body."""
    return textwrap.indent(text, "    ")
