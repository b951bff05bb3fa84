"""The written specification of a legal plan, as code.

A plan is legal if
1. every op is in exactly one stage, every stage has an op, and every edge u -> v has stage(u) <= stage(v);
2. every stage has at least one device of the cluster, each at most once; its replicas are groups of as many devices as
   divide its ops, each on one host and of one type, and groups of two stages are equal or disjoint (checked when the
   plan is built); some op of the graph can be divided so;
3. the schedule of each rank holds exactly the actions of its stages and micro-batches (`plan.shares`): one F, and
   either one B or one I and one W, for each; F before B or I, I before W; the ranks of a group have the same list;
4. run in the listed orders, with every action waiting for its inputs, all ranks reach their end (no deadlock).

Memory is not part of legality: it depends on costs, and the simulator reports it.
"""

from __future__ import annotations

from collections import defaultdict

from drlpp.errors import PlanError, ScheduleError
from drlpp.plan.action import Action, Schedule
from drlpp.plan.plan import Plan


def check_trains(plan: Plan, who: str) -> None:
    """Raises PlanError for a plan of serving. Args: `who`: trains by plans."""
    if not plan.training.trains:
        raise PlanError(f"{who} trains, but the plan is for serving: plan with --objective iteration-time")


def check_undivided(plan: Plan, who: str) -> None:
    """Raises PlanError for a plan that divides ops, which `who` cannot do."""
    for stage in plan.stages:
        if stage.sharding.tensor > 1:
            raise PlanError(
                f"stage {stage.index} divides its ops over {stage.sharding.tensor} devices, which {who} cannot do: "
                "plan with --parallelism pp,dp"
            )


def validate(plan: Plan) -> None:
    """Checks rules 1 to 4. Raises PlanError or ScheduleError that names the first thing that is wrong."""
    plan.stage_graph  # noqa: B018  (rule 1 is checked when the stage graph is derived)
    _check_actions(plan)
    _check_groups(plan)
    _check_progress(plan)


def _check_actions(plan: Plan) -> None:
    listed = sum(map(len, plan.schedule.values()))
    if plan.num_microbatches > listed:  # far from complete: do not enumerate what is missing
        raise ScheduleError(
            f"the schedule has {listed} actions for {plan.num_microbatches:.3g} micro-batches in {plan.num_stages} "
            "stages: every stage runs F and then B, or F, I and W, of each"
        )
    expected: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for stage in plan.stages:
        for m in range(plan.num_microbatches):
            for d in stage.group(m):
                expected[d].add((stage.index, m))
    for rank in plan.schedule:
        if not 0 <= rank < plan.cluster.num_devices:
            raise ScheduleError(f"the schedule has rank {rank}: devices are 0..{plan.cluster.num_devices - 1}")
    for rank in range(plan.cluster.num_devices):
        done: dict[tuple[int, int], str] = {}
        for action in plan.schedule.get(rank, ()):
            key = (action.stage, action.microbatch)
            if key not in expected[rank]:
                raise ScheduleError(
                    f"rank {rank} has action {action}: stage {action.stage} does not run micro-batch "
                    f"{action.microbatch} there (it runs m on replica m mod their number, or by their shares)"
                )
            so_far = done.get(key, "")
            if so_far + action.kind not in ("F", "FB", "FI", "FIW"):
                raise ScheduleError(
                    f"rank {rank} has action {action} after {list(so_far)} of the same stage and micro-batch: "
                    "the order is F, then B or I W, each once"
                )
            done[key] = so_far + action.kind
        for key in sorted(expected[rank]):
            if done.get(key, "") not in ("FB", "FIW"):
                raise ScheduleError(
                    f"rank {rank} runs {list(done.get(key, ''))} of stage {key[0]}, micro-batch {key[1]}: "
                    "it must run F and then B, or F, I and W"
                )


def _check_groups(plan: Plan) -> None:
    for degree in sorted({stage.sharding.tensor for stage in plan.stages} - {1}):
        if not plan.graph.can_be_divided(degree):
            raise PlanError(
                f"a stage divides its ops over {degree} devices, and none can be: use groups of other sizes"
            )
    for first, *others in plan.grouping.groups:
        for rank in others:
            if plan.schedule.get(rank, ()) != plan.schedule.get(first, ()):
                raise ScheduleError(
                    f"ranks {first} and {rank} divide the ops of a stage and have different actions: give them the same"
                )


def dependencies(plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    """Stages that each stage's forward pass, and its backward pass, has to wait for: two lists of length S."""
    forward: list[set[int]] = [set() for _ in plan.stages]
    backward: list[set[int]] = [set() for _ in plan.stages]
    for message in plan.stage_graph.messages:
        for dst in message.dsts:
            if message.phase == "forward":
                forward[dst].add(message.src)
                if message.requires_grad:
                    backward[message.src].add(dst)
            else:
                backward[dst].add(message.src)
    return [sorted(x) for x in forward], [sorted(x) for x in backward]


def _check_progress(plan: Plan) -> None:
    forward, backward = dependencies(plan)
    schedule: Schedule = plan.schedule
    position = dict.fromkeys(schedule, 0)
    done: set[tuple[int, str, int]] = set()
    waiting: dict[tuple[int, str, int], list[int]] = defaultdict(list)
    todo = list(schedule)
    while todo:
        rank = todo.pop()
        while position[rank] < len(schedule[rank]):
            action = schedule[rank][position[rank]]
            missing = _missing(action, forward, backward, done)
            if missing is not None:
                waiting[missing].append(rank)
                break
            key = (action.stage, "F" if action.kind == "F" else "B", action.microbatch)
            position[rank] += 1
            if action.kind != "W":
                done.add(key)
                todo.extend(waiting.pop(key, []))
    stuck = {r: schedule[r][p] for r, p in position.items() if p < len(schedule[r])}
    if stuck:
        shown = ", ".join(f"rank {r} at {a}" for r, a in sorted(stuck.items())[:4])
        raise ScheduleError(f"the schedule deadlocks: {shown}: each waits for an action that is listed too late")


def _missing(
    action: Action, forward: list[list[int]], backward: list[list[int]], done: set[tuple[int, str, int]]
) -> tuple[int, str, int] | None:
    if action.kind == "W":
        return None
    phase, needs = ("F", forward) if action.kind == "F" else ("B", backward)
    for stage in needs[action.stage]:
        if (stage, phase, action.microbatch) not in done:
            return (stage, phase, action.microbatch)
    return None
