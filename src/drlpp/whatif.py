"""What would make training faster: changes of the cluster or of the step, each planned, ranked by predicted gain.

A change that adds something can always be ignored, so plans are carried over: every change also gets the best plan for
what is there now, and what is there now gets every plan that was found for a change and needs nothing new. A gain is
thus not noise of the search, except that a better plan may have been missed on either side.

Left out: prices, and changes of the model, whose costs would have to be captured anew.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from drlpp import units
from drlpp.cluster import Cluster, DeviceType, GroupLink, Host, Link
from drlpp.cluster.grouping import completed
from drlpp.cluster.usual_groupings import DEGREES, UsualGroupings
from drlpp.cost.groups import grouped, lifted
from drlpp.cost.problem_times import problem_times
from drlpp.plan import Plan
from drlpp.planners.base import Planner, PlanResult, Progress, no_progress
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
from drlpp.solving import solve

Kind = Literal["device", "network", "link", "memory", "replace", "remove", "micro-batches", "parallelism"]
_PORT_TIERS = tuple(x * 1e9 / 8 for x in (1, 10, 25, 50, 100, 200, 400, 800))
"""Usual speeds of network ports, in bytes per second."""


@dataclasses.dataclass(frozen=True)
class Change:
    """Something that could be different.

    Attributes:
        name: for people, what is changed.
        kind: what sort of change.
        problem: the problem after it.
        device: device of today -> its number after the change; one that is gone is left out.
        caveat: what the gain does not say.
    """

    name: str
    kind: Kind
    problem: PlanningProblem
    device: Mapping[int, int]
    caveat: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a change would bring.

    Attributes:
        change, kind, caveat: as in `Change`; the first outcome is that of no change.
        status: ``ok``, ``infeasible`` or ``failed``; then `reason` says why, and there are no figures.
        throughput_samples_per_s: predicted.
        iteration_time_s, bottleneck_s: predicted.
        gain: throughput over that of today, minus one; None if today nothing fits, or after the change.
    """

    change: str
    kind: str
    status: str
    throughput_samples_per_s: float | None
    iteration_time_s: float | None
    bottleneck_s: float | None
    gain: float | None
    caveat: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def what_if(
    problem: PlanningProblem,
    planner: Planner,
    *,
    budget_s: float = 10.0,
    seed: int = 0,
    progress: Progress = no_progress,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Outcome, tuple[Outcome, ...]]:
    """Plans today's problem and every change of it.

    Args:
        budget_s: seconds of search for each.
        progress: called with the name of the change that is planned.
        stop: asked before each change; once it says so, the changes that are left are not planned.

    Returns:
        The outcome of today, and those of the changes, the largest gain first.
    """
    today = Change("as it is", "device", problem, {d: d for d in range(problem.cluster.num_devices)})
    all_changes = [today, *changes(problem)]
    planned: list[tuple[Change, PlanResult]] = []
    for k, change in enumerate(all_changes):
        if k and stop():
            break
        progress(change.name, k / len(all_changes), None)
        planned.append((change, solve(change.problem, planner, budget=budget_s, seed=seed)))

    results = [result for _, result in planned]
    for change, result in planned[1:]:
        back = {new: old for old, new in change.device.items()}
        results[0] = _better(results[0], _carried(result.plan, back, problem), problem)
    for k, (change, _) in enumerate(planned[1:], start=1):
        results[k] = _better(results[k], _carried(results[0].plan, change.device, change.problem), problem)
    base = _throughput(results[0].plan, problem)
    outcomes = [_outcome(c, r, base) for (c, _), r in zip(planned, results, strict=True)]
    ranked = sorted(outcomes[1:], key=lambda o: -(o.throughput_samples_per_s or 0.0))
    return outcomes[0], tuple(ranked)


def changes(problem: PlanningProblem) -> tuple[Change, ...]:
    """The changes that are looked at: devices, links, memory, micro-batches and parallelism. Equal hosts count once."""
    return tuple(_changes(problem))


def _changes(problem: PlanningProblem) -> Iterator[Change]:
    yield from _more_devices(problem)
    yield from _replaced_types(problem)
    if not problem.graph.has_transfer_times:
        yield from _faster_ports(problem)
        yield from _faster_links(problem)
    yield from _more_memory(problem)
    yield from _other_microbatches(problem)
    yield from _other_micro_batch_sizes(problem)
    yield from _other_parallelism(problem)
    yield from _other_degrees(problem)
    yield from _without_slowest(problem)


def _more_devices(problem: PlanningProblem) -> Iterator[Change]:
    cluster = problem.cluster
    for h, host in _distinct_hosts(cluster):
        for name in dict.fromkeys(host.devices):
            link = host.link or host.slowest_link or next((other.link for other in cluster.hosts if other.link), None)
            if link is None:  # nothing says how two devices of a host would be joined
                continue
            changed = dataclasses.replace(host, devices=(*host.devices, name), link=link)
            shift = sum(len(other.devices) for other in cluster.hosts[: h + 1])
            device = {d: d + (d >= shift) for d in range(cluster.num_devices)}
            where = f" on host {host.name}" if len(cluster.hosts) > 1 else ""
            yield Change(f"one more {name}{where}", "device", _with_hosts(problem, {h: changed}), device)


def _replaced_types(problem: PlanningProblem) -> Iterator[Change]:
    used = _types_by_speed(problem)
    for k, slow in enumerate(used):
        for fast in used[k + 1 :]:
            hosts = {
                h: dataclasses.replace(host, devices=tuple(fast.name if t == slow.name else t for t in host.devices))
                for h, host in enumerate(problem.cluster.hosts)
            }
            count = sum(host.devices.count(slow.name) for host in problem.cluster.hosts)
            yield Change(
                f"{count} {fast.name} in place of the {slow.name}",
                "replace",
                _with_hosts(problem, hosts),
                _same(problem),
            )


def _faster_ports(problem: PlanningProblem) -> Iterator[Change]:
    hosts = problem.cluster.hosts
    if len(hosts) < 2:
        return
    for bandwidth in sorted({h.network.bandwidth for h in hosts if h.network}):
        tier = next((t for t in _PORT_TIERS if t > 1.01 * bandwidth), None)
        if tier is None:
            continue
        slow = {i: h for i, h in enumerate(hosts) if h.network and h.network.bandwidth == bandwidth}
        changed = {
            i: dataclasses.replace(h, network=Link(bandwidth=tier, latency_s=h.network.latency_s))
            for i, h in slow.items()
            if h.network
        }
        which = "" if len(slow) == len(hosts) else f" on {_names(list(slow.values()))}"
        speeds = f"{_gigabits(tier)} instead of {_gigabits(bandwidth)} Gbit/s"
        yield Change(f"{speeds} network{which}", "network", _with_hosts(problem, changed), _same(problem))


def _faster_links(problem: PlanningProblem) -> Iterator[Change]:
    hosts = problem.cluster.hosts
    for link in dict.fromkeys(link for h in hosts for link in h.all_links):
        same = {i: h for i, h in enumerate(hosts) if link in h.all_links}
        faster = dataclasses.replace(link, bandwidth=2 * link.bandwidth)
        changed = {
            i: dataclasses.replace(
                h,
                link=faster if h.link == link else h.link,
                links=tuple(GroupLink(g.devices, faster if g.link == link else g.link) for g in h.links),
            )
            for i, h in same.items()
        }
        yield Change(
            f"{units.format_bandwidth(faster.bandwidth)} instead of {units.format_bandwidth(link.bandwidth)} inside "
            f"{_names(list(same.values()))}",
            "link",
            _with_hosts(problem, changed),
            _same(problem),
        )


def _more_memory(problem: PlanningProblem) -> Iterator[Change]:
    cluster = problem.cluster
    for chosen in _types_by_speed(problem):
        types = tuple(
            dataclasses.replace(t, memory_bytes=2 * t.memory_bytes) if t is chosen else t for t in cluster.device_types
        )
        changed = dataclasses.replace(problem, cluster=Cluster(cluster.name, types, cluster.hosts))
        memory = units.format_bytes(2 * chosen.memory_bytes)
        yield Change(f"twice the memory on each {chosen.name} ({memory})", "memory", changed, _same(problem))


def _other_microbatches(problem: PlanningProblem) -> Iterator[Change]:
    now, samples = problem.training.num_microbatches, problem.graph.samples_per_microbatch
    for number, words in ((2 * now, "twice"), (now // 2, "half")):
        if number < 1 or problem.objective.of_one_microbatch or problem.space.micro_batch_sizes:
            continue
        training = dataclasses.replace(problem.training, num_microbatches=number)
        yield Change(
            f"{words} the micro-batches ({number})",
            "micro-batches",
            dataclasses.replace(problem, training=training),
            _same(problem),
            f"with {words} the micro-batches, the batch of a step changes from {now * samples} to {number * samples} "
            "samples: training may need another learning rate",
        )


def _other_micro_batch_sizes(problem: PlanningProblem) -> Iterator[Change]:
    """The same step in micro-batches of twice and half the samples, where the size is not searched anyway."""
    now = problem.graph.samples_per_microbatch
    if problem.space.micro_batch_sizes or problem.objective.of_one_microbatch or problem.graph.batch_axis == "none":
        return
    for size in (2 * now, now // 2):
        if size and problem.global_batch % size == 0:
            changed = problem.with_micro_batch_size(size)
            yield Change(f"micro-batches of {size} instead of {now} samples", "micro-batches", changed, _same(problem))


def _other_parallelism(problem: PlanningProblem) -> Iterator[Change]:
    """With and without groups that divide ops, and replicas that divide optimizer states."""
    if not problem.training.trains:
        return
    now, cluster, graph = problem.space.parallelism, problem.cluster, problem.graph
    choices = {
        "tensor parallelism": ({"tp", "sp"}, len(UsualGroupings(cluster, graph.can_be_divided)) > 1),
        "ZeRO-1": ({"zero1"}, problem.may_replicate and cluster.num_devices > 1),
    }
    for title, (names, can) in choices.items():
        if can:
            without = bool(names & now)
            changed = problem.with_parallelism(now - names if without else now | names, shares=problem.space.shares)
            yield Change(f"{'without' if without else 'with'} {title}", "parallelism", changed, _same(problem))


def _other_degrees(problem: PlanningProblem) -> Iterator[Change]:
    """Groups of one size everywhere, where groups are searched."""
    space, cluster, graph = problem.space, problem.cluster, problem.graph
    if "tp" not in space.parallelism or space.tensor:
        return
    for degree in DEGREES[1:]:
        (grouping,) = UsualGroupings(cluster, graph.can_be_divided, size=degree)
        lengths = {len(group) for group in grouping.groups}
        if max(lengths) == degree and not (space.one_degree and len(lengths) > 1):
            changed = dataclasses.replace(problem, space=dataclasses.replace(space, tensor=degree))
            yield Change(f"tensor parallelism {degree} everywhere", "parallelism", changed, _same(problem))


def _without_slowest(problem: PlanningProblem) -> Iterator[Change]:
    cluster = problem.cluster
    if cluster.num_devices < 2:
        return
    seconds = problem_times(problem).total_s.sum(axis=1)[cluster.type_index]
    slowest = max(range(cluster.num_devices), key=lambda d: (float(seconds[d]), d))
    left = [d for d in range(cluster.num_devices) if d != slowest]
    gone = cluster.devices[slowest]
    where = f" of host {cluster.hosts[gone.host].name}" if len(cluster.hosts) > 1 else ""
    yield Change(
        f"without device {slowest} ({gone.type.name}{where}, one of the slowest)",
        "remove",
        dataclasses.replace(problem, cluster=cluster.subset(left)),
        {d: k for k, d in enumerate(left)},
    )


def _types_by_speed(problem: PlanningProblem) -> list[DeviceType]:
    """Device types in use, slowest first by the time of all ops."""
    cluster = problem.cluster
    seconds = problem_times(problem).total_s.sum(axis=1)
    used = sorted(set(cluster.type_index.tolist()), key=lambda t: -float(seconds[t]))
    return [cluster.device_types[t] for t in used]


def _distinct_hosts(cluster: Cluster) -> list[tuple[int, Host]]:
    first: dict[Host, tuple[int, Host]] = {}
    for h, host in enumerate(cluster.hosts):
        first.setdefault(dataclasses.replace(host, name=""), (h, host))
    return list(first.values())


def _with_hosts(problem: PlanningProblem, changed: Mapping[int, Host]) -> PlanningProblem:
    cluster = problem.cluster
    hosts = tuple(changed.get(h, host) for h, host in enumerate(cluster.hosts))
    return dataclasses.replace(problem, cluster=Cluster(cluster.name, cluster.device_types, hosts))


def _same(problem: PlanningProblem) -> dict[int, int]:
    return {d: d for d in range(problem.cluster.num_devices)}


def _names(hosts: list[Host]) -> str:
    names = [h.name for h in hosts]
    return f"host {names[0]}" if len(names) == 1 else f"hosts {', '.join(names)}"


def _gigabits(bandwidth: float) -> str:
    return f"{bandwidth * 8 / 1e9:g}"


def _carried(plan: Plan | None, device: Mapping[int, int], problem: PlanningProblem) -> Plan | None:
    """A plan on the devices of another problem of the same graph; None if it needs one that is not there."""
    if plan is None or any(d not in device for s in plan.stages for d in s.devices):
        return None
    if plan.grouping.divides and "tp" not in problem.space.parallelism:
        return None
    if problem.space.tensor and any(s.sharding.tensor != problem.space.tensor for s in plan.stages):
        return None
    if problem.space.micro_batch_sizes:
        problem = problem.with_micro_batch_size(plan.graph.samples_per_microbatch)
    stages = [[tuple(device[d] for d in group) for group in stage.replicas] for stage in plan.stages]
    grouping = completed([group for groups in stages for group in groups], problem.cluster)
    number = {group: g for g, group in enumerate(grouping.groups)}
    devices = tuple(tuple(number[group] for group in groups) for groups in stages)
    assignment = dataclasses.replace(plan.assignment, devices=devices)
    sequence = any(stage.sharding.sequence for stage in plan.stages)
    evaluator = Evaluator(grouped(problem, grouping, sequence=sequence))
    if not evaluator.evaluate(assignment).feasible:
        return None
    return lifted(evaluator.make_plan(assignment, plan.provenance), problem.cluster, grouping)


def _better(result: PlanResult, plan: Plan | None, problem: PlanningProblem) -> PlanResult:
    if plan is None or (_throughput(plan, problem) or 0.0) <= (_throughput(result.plan, problem) or 0.0):
        return result
    return dataclasses.replace(result, status="ok", plan=plan, reason="")


def _throughput(plan: Plan | None, problem: PlanningProblem) -> float | None:
    """Samples per second: of synchronous steps, or of the busiest device for the objective steady-state."""
    if plan is None or plan.prediction is None:
        return None
    value_s = problem.objective.value_s(plan.prediction)
    samples = plan.graph.samples_per_microbatch * problem.objective.microbatches(plan.num_microbatches)
    return samples / value_s if value_s else math.inf


def _outcome(change: Change, result: PlanResult, base: float | None) -> Outcome:
    throughput = _throughput(result.plan, change.problem)
    prediction = result.plan.prediction if result.plan is not None else None
    return Outcome(
        change=change.name,
        kind=change.kind,
        status=result.status,
        throughput_samples_per_s=throughput,
        iteration_time_s=prediction.iteration_time_s if prediction else None,
        bottleneck_s=prediction.bottleneck_s if prediction else None,
        gain=throughput / base - 1 if throughput and base else None,
        caveat=change.caveat,
        reason=result.reason,
    )
