"""Stages on their devices as flat arrays: what the schedule generators and the fast evaluator compute on.

Devices are numbered anew, without the ones that no stage uses (`used` maps back, in ascending order), so that nothing
depends on the size of the cluster. A *slot* is a replica of a stage: which one runs a micro-batch repeats after a round
(`drlpp.plan.shares`), and micro-batch m of stage s runs in slot ``round_slot[round_off[s] + m % round]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import NO_LINK, Cluster
from drlpp.cost.collectives import all_reduce_s
from drlpp.cost.gradients import Devices, gradient_groups, resident_and_optimizer, share_of_parameters
from drlpp.cost.links import links_inside, site_on_host
from drlpp.cost.stage_costs import StageCosts
from drlpp.errors import ScheduleError
from drlpp.graph.csr import offsets
from drlpp.graph.stages import StageGraph
from drlpp.plan.shares import Shares, microbatches_of_each, turns

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


class PlacedStages(NamedTuple):
    """Arrays of S stages in L slots on U used devices of H hosts, with K messages to P stages in all.

    Attributes:
        num_microbatches: M.
        used: ``[U]`` device ids of the cluster.
        slot_off, slot_device: ``[S + 1]``, ``[L]`` replicas of each stage.
        round_off, round_slot: ``[S + 1]``, the slots that run the micro-batches of a round of each stage.
        turn_off, turn: ``[L + 1]``, the micro-batches of a round that each slot runs.
        slot_microbatches: ``[L]`` micro-batches of a step that each slot runs.
        action_s: ``[4, L]`` seconds of the actions F, B, I, W in each slot; B and I include the second forward pass of
            a stage that recomputes.
        held_bytes: ``[S]`` kept from F to the end of the backward pass, per micro-batch.
        again_bytes, remade_bytes: ``[S]`` more that B, and that I to W, of a stage that recomputes needs (else 0).
        resident_bytes: ``[U]`` parameters, buffers, gradients and optimizer state.
        gradient_bytes: ``[L]`` the part of it that is gradients of each slot.
        memory_bytes, optimizer_s: ``[U]``.
        members: ``[U]`` devices that each stands for: what it receives, each of them holds.
        message_off: ``[S + 1]`` messages of each source stage.
        message_backward, message_grad: ``[K]`` 1 if the message belongs to the backward pass; if a gradient returns.
        message_bytes, message_s: ``[K]`` size, and seconds where the graph gives them (else -1).
        message_src: ``[K]``.
        dst_off, dst: ``[K + 1]``, ``[P]`` receiving stages of each message.
        returns_off, returns: ``[S + 1]``, messages whose gradient each stage contributes to, in order.
        forward_inputs, backward_inputs: ``[S]`` messages that F, and that B or I, waits for (without gradients).
        host, local: ``[U]`` host, and number that is distinct among the devices that share channels.
        channel_width: the channel from u to v is ``u * channel_width + local[v]``.
        site: ``[U]`` the site of each device on its host.
        sites, link_off, link_bandwidth, link_latency_s, link_step_s: `cost.links.LinksInside` of the hosts.
        port_bandwidth, port_latency_s: ``[H]``.
        ports_shared: 1 if transfers between hosts are possible, so that the order of requests matters.
        group_s, group_pending, group_spans: ``[G]`` all-reduces: seconds; slots that have to finish; 1 if over hosts.
        group_off, group_device, group_host_off, group_host: their devices and hosts.
        stage_group_off, stage_group: ``[S + 1]``, the all-reduces that wait for each stage.
    """

    num_microbatches: int
    used: _Ints
    slot_off: _Ints
    slot_device: _Ints
    round_off: _Ints
    round_slot: _Ints
    turn_off: _Ints
    turn: _Ints
    slot_microbatches: _Ints
    action_s: _Floats
    held_bytes: _Floats
    again_bytes: _Floats
    remade_bytes: _Floats
    resident_bytes: _Floats
    gradient_bytes: _Floats
    memory_bytes: _Floats
    members: _Ints
    optimizer_s: _Floats
    message_off: _Ints
    message_backward: _Ints
    message_grad: _Ints
    message_bytes: _Floats
    message_s: _Floats
    message_src: _Ints
    dst_off: _Ints
    dst: _Ints
    returns_off: _Ints
    returns: _Ints
    forward_inputs: _Ints
    backward_inputs: _Ints
    host: _Ints
    local: _Ints
    channel_width: int
    site: _Ints
    sites: _Ints
    link_off: _Ints
    link_bandwidth: _Floats
    link_latency_s: _Floats
    link_step_s: _Floats
    port_bandwidth: _Floats
    port_latency_s: _Floats
    ports_shared: int
    group_s: _Floats
    group_pending: _Ints
    group_spans: _Ints
    group_off: _Ints
    group_device: _Ints
    group_host_off: _Ints
    group_host: _Ints
    stage_group_off: _Ints
    stage_group: _Ints


def place_stages(
    costs: StageCosts,
    cluster: Cluster,
    devices: Devices,
    num_microbatches: int,
    shares: Sequence[Shares] = (),
) -> PlacedStages:
    """Puts stages on devices.

    Args:
        devices: per stage, its replicas.
        shares: per stage, as in `Assignment`; empty means equal ones.

    Raises:
        ScheduleError: a stage without devices, a device that the cluster lacks, or lengths that do not agree.
    """
    graph = costs.graph
    num_stages = graph.num_stages
    if len(devices) != num_stages:
        raise ScheduleError(f"devices are given for {len(devices)} stages: there are {num_stages}")
    if num_microbatches < 1:
        raise ScheduleError(f"num_microbatches is {num_microbatches}: it must be at least 1")
    for s, replicas in enumerate(devices):
        if not replicas:
            raise ScheduleError(f"stage {s} has no device: give every stage at least one")
    flat = np.fromiter(itertools.chain.from_iterable(devices), dtype=np.int64)
    if flat.min() < 0 or flat.max() >= cluster.num_devices:
        raise ScheduleError(
            f"the placement uses devices {flat.min()}..{flat.max()}: cluster {cluster.name!r} has devices "
            f"0..{cluster.num_devices - 1}"
        )
    used = np.unique(flat)
    shares = tuple(shares) or ((),) * num_stages
    if len(shares) != num_stages:
        raise ScheduleError(f"shares are given for {len(shares)} stages: there are {num_stages}")
    sizes = np.array([len(r) for r in devices])
    first_device = [replicas[0] for replicas in devices]
    slot_stage = np.repeat(np.arange(num_stages), sizes)
    forward = costs.forward_s[slot_stage, flat]
    input_grad = costs.input_grad_s[slot_stage, flat]
    weight_grad = costs.weight_grad_s[slot_stage, flat]
    again = costs.again_s[slot_stage, flat]
    resident, optimizer = resident_and_optimizer(costs, devices, cluster.num_devices)
    share = share_of_parameters(costs, devices, cluster.num_devices)
    busy = [
        sum(number > 0 for number in microbatches_of_each(of_stage, len(replicas), num_microbatches))
        for of_stage, replicas in zip(shares, devices, strict=True)
    ]

    return PlacedStages(
        num_microbatches=num_microbatches,
        used=used,
        slot_off=offsets(sizes),
        slot_device=np.searchsorted(used, flat),
        **_rounds(devices, shares, num_microbatches),
        action_s=np.stack([forward, again + (input_grad + weight_grad), again + input_grad, weight_grad]),
        held_bytes=costs.held_bytes[range(num_stages), first_device],
        again_bytes=costs.again_bytes[range(num_stages), first_device],
        remade_bytes=costs.remade_bytes[range(num_stages), first_device],
        resident_bytes=resident[used],
        gradient_bytes=costs.gradient_bytes[slot_stage, flat] * share[flat],
        memory_bytes=cluster.memory_bytes[used],
        members=cluster.members[used],
        optimizer_s=optimizer[used],
        **_messages(graph),
        **_channels(cluster, used, graph),
        **_groups(costs, cluster, devices, used, busy),
    )


def _rounds(devices: Devices, shares: Sequence[Shares], num_microbatches: int) -> dict[str, Any]:
    """The fields of who runs which micro-batch."""
    rounds: list[_Ints] = []
    of_slots: list[_Ints] = []
    numbers: list[_Ints] = []
    first = 0
    for replicas, of_stage in zip(devices, shares, strict=True):
        order = np.array(turns(of_stage, len(replicas)), dtype=np.int64)
        rounds.append(first + order)
        of_slots += [np.flatnonzero(order == r) for r in range(len(replicas))]
        numbers.append(np.array(microbatches_of_each(of_stage, len(replicas), num_microbatches), dtype=np.int64))
        first += len(replicas)
    return {
        "round_off": offsets([len(order) for order in rounds]),
        "round_slot": _joined(rounds),
        "turn_off": offsets([len(of_slot) for of_slot in of_slots]),
        "turn": _joined(of_slots),
        "slot_microbatches": _joined(numbers),
    }


def _messages(graph: StageGraph) -> dict[str, Any]:
    """The fields of what stages send to each other."""
    num_stages = graph.num_stages
    messages = graph.messages
    src = np.array([m.src for m in messages], dtype=np.int64)
    backward = np.array([m.phase == "backward" for m in messages], dtype=np.int64)
    grad = np.array([m.requires_grad and m.phase == "forward" for m in messages], dtype=np.int64)
    seconds = np.array([-1.0 if m.transfer_s is None else m.transfer_s for m in messages], dtype=np.float64)
    dst = np.array([d for m in messages for d in m.dsts], dtype=np.int64)
    of_message = np.repeat(np.arange(len(messages)), [len(m.dsts) for m in messages]).astype(np.int64)
    returning = grad[of_message] > 0
    by_stage = np.argsort(dst[returning], kind="stable")
    return {
        "message_off": np.searchsorted(src, np.arange(num_stages + 1)).astype(np.int64),
        "message_backward": backward,
        "message_grad": grad,
        "message_bytes": np.array([m.bytes for m in messages], dtype=np.float64),
        "message_s": seconds,
        "message_src": src,
        "dst_off": offsets([len(m.dsts) for m in messages]),
        "dst": dst,
        "returns_off": offsets(np.bincount(dst[returning], minlength=num_stages)),
        "returns": of_message[returning][by_stage],
        "forward_inputs": np.bincount(dst[backward[of_message] == 0], minlength=num_stages).astype(np.int64),
        "backward_inputs": np.bincount(dst[backward[of_message] == 1], minlength=num_stages).astype(np.int64),
    }


def _channels(cluster: Cluster, used: _Ints, graph: StageGraph) -> dict[str, Any]:
    """The fields of hosts, links and channels between the used devices."""
    host_of, host = np.unique(cluster.host_index[used], return_inverse=True)
    hosts = [cluster.hosts[h] for h in host_of]
    inside = links_inside(cluster, host_of.tolist())
    ports = [h.network or NO_LINK for h in hosts]
    num_used = len(used)
    if any(m.transfer_s is not None for m in graph.messages):
        local, width = np.arange(num_used), num_used
    else:
        counts = np.bincount(host)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        order = np.argsort(host, kind="stable")
        local, width = np.empty(num_used, dtype=np.int64), int(counts.max())
        local[order] = np.arange(num_used) - np.repeat(first, counts)
    return {
        "host": host.astype(np.int64),
        "local": local,
        "channel_width": width,
        "site": site_on_host(cluster)[used],
        "sites": inside.sites,
        "link_off": inside.link_off,
        "link_bandwidth": inside.bandwidth,
        "link_latency_s": inside.latency_s,
        "link_step_s": inside.step_s,
        "port_bandwidth": np.array([x.bandwidth for x in ports]),
        "port_latency_s": np.array([x.latency_s for x in ports]),
        "ports_shared": int(len(hosts) > 1 and any(m.transfer_s is None for m in graph.messages)),
    }


def _groups(costs: StageCosts, cluster: Cluster, devices: Devices, used: _Ints, busy: Sequence[int]) -> dict[str, Any]:
    """The fields of the all-reduces of gradients. Args: busy: per stage, its replicas that run a micro-batch."""
    num_stages, host = len(devices), np.unique(cluster.host_index[used], return_inverse=True)[1]
    groups = gradient_groups(costs, devices)
    group_devices = [np.searchsorted(used, g.devices) for g in groups]
    group_hosts = [np.unique(host[d]) for d in group_devices]
    pairs = np.array([(s, g) for g, group in enumerate(groups) for s in group.stages], dtype=np.int64).reshape(-1, 2)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return {
        "group_s": np.array([all_reduce_s(cluster, g.devices, g.num_bytes) for g in groups], dtype=np.float64),
        "group_pending": np.array([sum(busy[s] for s in g.stages) for g in groups], dtype=np.int64),
        "group_spans": np.array([len(h) > 1 for h in group_hosts], dtype=np.int64),
        "group_off": offsets([len(d) for d in group_devices]),
        "group_device": _joined(group_devices),
        "group_host_off": offsets([len(h) for h in group_hosts]),
        "group_host": _joined(group_hosts),
        "stage_group_off": offsets(np.bincount(pairs[:, 0], minlength=num_stages)),
        "stage_group": np.ascontiguousarray(pairs[:, 1]),
    }


def _joined(parts: Sequence[_Ints]) -> _Ints:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)
