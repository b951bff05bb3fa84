"""Which devices of a cluster are there, where torchrun starts ranks on the hosts that it finds; and the plan for them.

A host is known by the name that it has in the cluster file: that of the machine, or what ``DRLPP_HOST`` says. torchrun
numbers the hosts as they come, so rank and device do not go together.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from drlpp.cluster import Cluster
from drlpp.errors import DrlppError, ExecutionError, InputError
from drlpp.plan import Plan
from drlpp.runtime.adapt.adopted import adopted_plan, record_adopted
from drlpp.runtime.launch.elastic import Replan, checked_plan
from drlpp.runtime.launch.training import Say

HOST_VARIABLE = "DRLPP_HOST"


class Place(NamedTuple):
    """Where a rank is."""

    host: str
    local_rank: int


def devices_of_ranks(cluster: Cluster) -> tuple[int, ...]:
    """The device of each rank of the process group. Called on every rank.

    Raises:
        InputError: on every rank: a host is not in the cluster, or has another number of processes than devices.
    """
    here = Place(os.environ.get(HOST_VARIABLE) or socket.gethostname(), int(os.environ["LOCAL_RANK"]))
    places = [here] * dist.get_world_size()
    dist.all_gather_object(places, here)
    return placed(places, cluster)


def placed(places: Sequence[Place], cluster: Cluster) -> tuple[int, ...]:
    """The device of each place. Raises InputError as `devices_of_ranks` does."""
    first = {h.name: int(d) for h, d in zip(cluster.hosts, cluster.first_device, strict=False)}
    sizes = {h.name: len(h.devices) for h in cluster.hosts}
    for host in dict.fromkeys(p.host for p in places):
        if host not in first:
            raise InputError(
                f"host {host!r} is not in cluster {cluster.name!r} ({', '.join(first)}): give it its name there with "
                f"{HOST_VARIABLE}=NAME"
            )
        found = sorted(p.local_rank for p in places if p.host == host)
        if found != list(range(sizes[host])):
            raise InputError(
                f"host {host!r} has {len(found)} processes, and {sizes[host]} devices in cluster {cluster.name!r}: "
                f"start torchrun there once, with --nproc-per-node {sizes[host]}"
            )
    return tuple(first[p.host] + p.local_rank for p in places)


def plan_for_those_here(
    plan: Plan, devices: Sequence[int], replan: Replan | None, store: Path, say: Say
) -> tuple[Plan, tuple[int, ...]]:
    """The plan to run with the devices that are there, and the device of each rank in it. Called on every rank.

    Args:
        plan: for all devices.
        devices: of the ranks.
        replan: None: only all devices will do.
        store: folder of checkpoints; the plan for a part of the devices is kept there.
        say: called on rank 0.

    Raises:
        InputError: devices are missing, and there is no `replan`.
        ExecutionError: on every rank: there is no plan for what is left.
    """
    if len(devices) == plan.cluster.num_devices:
        return plan, tuple(devices)
    if replan is None:
        raise InputError(
            f"{len(devices)} of {plan.cluster.num_devices} devices are there: a run that restarts in place waits for "
            f"all hosts, so give torchrun --nnodes {len(plan.cluster.hosts)}"
        )
    kept = sorted(devices)
    told: list[Plan | str] = [""]
    if dist.get_rank() == 0:
        try:
            told = [_plan_for(plan, plan.cluster.subset(kept), replan, store, say)]
        except DrlppError as error:
            told = [str(error)]
    dist.broadcast_object_list(told)
    if not isinstance(told[0], Plan):
        raise ExecutionError(f"no plan for the {len(kept)} devices that are there: {told[0]}")
    return told[0], tuple(kept.index(d) for d in devices)


def _plan_for(plan: Plan, cluster: Cluster, replan: Replan, store: Path, say: Say) -> Plan:
    hosts = ", ".join(h.name for h in cluster.hosts)
    known = adopted_plan(store, plan, cluster)
    if known is not None:
        say(f"elastic: going on with the plan for {hosts}")
        return known
    say(f"elastic: planning for {hosts}, {cluster.num_devices} of {plan.cluster.num_devices} devices")
    made = checked_plan(plan, cluster, replan)
    record_adopted(store, made)
    return made
