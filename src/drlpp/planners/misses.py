"""What is said where a planner has no plan: what is proven, what is only not found, and what comes near."""

from __future__ import annotations

import numpy as np

from drlpp.cost.optimizer_state import op_resident_bytes
from drlpp.planners.base import Budget
from drlpp.planners.space.chain_loads import fitting_splits, memory_splits
from drlpp.problem import PlanningProblem, per_problem
from drlpp.sim import Evaluation, Evaluator
from drlpp.units import format_bytes

_HELP = "use more or larger devices, a smaller micro-batch, or fewer micro-batches in flight"


def proof_that_none_fits(problem: PlanningProblem) -> str:
    """Why no plan can fit, whoever looks for it; empty if that is not proven.

    Proven is that what a step keeps of each parameter and buffer lies on some device, all that an op reads on the
    devices of its stage. A group, which is on one host, may divide an op if the plan may have groups.
    """
    each, cluster = op_resident_bytes(problem.graph, problem.training), problem.cluster
    needed, there = float(each.sum()), float(cluster.memory_bytes.sum())
    if needed > there:
        return (
            f"no plan can fit the memory: parameters, gradients and optimizer states take {format_bytes(needed)}, and "
            f"the devices of {cluster.name!r} together have {format_bytes(there)}: use more or larger devices, or "
            "another optimizer"
        )
    each = op_resident_bytes(problem.graph, problem.training, cluster.num_devices)  # of one of as many replicas
    host = np.array([device.host for device in cluster.devices])
    of_host = np.bincount(host, weights=cluster.memory_bytes) if "tp" in problem.space.parallelism else None
    widest = float(cluster.memory_bytes.max() if of_host is None else of_host.max())
    op = int(each.argmax())
    if each[op] <= widest:
        return ""
    return (
        f"no plan can fit the memory: parameters, gradients and optimizer states of op {problem.graph.ops[op].name!r} "
        f"alone take {format_bytes(float(each[op]))}, and the largest {'device' if of_host is None else 'host'} of "
        f"{cluster.name!r} has {format_bytes(widest)}: use larger devices, or another optimizer"
    )


def miss(problem: PlanningProblem, planner: str, nearest: Evaluation | None, budget: Budget) -> str:
    """Why a planner has no plan, after a look whether simple plans fit.

    Args:
        nearest: the plan that it found which exceeds the memory least.
    """
    proof = proof_that_none_fits(problem)
    if proof:
        return proof
    simple = nearest_simple(problem)
    if simple.feasible:
        return (
            f"{planner} found no plan that fits the memory, but there are some (consecutive stages, one on each "
            "device): use --planner drl"
        )
    if nearest is None or simple.over_memory_bytes < nearest.over_memory_bytes:
        nearest = simple
    return not_found(problem, planner, nearest, budget)


def not_found(problem: PlanningProblem, planner: str, nearest: Evaluation | None, budget: Budget) -> str:
    """Says that nothing was found, how near the nearest came, and that this is no proof."""
    more = "give it more seconds, or " if budget.spent else ""
    if nearest is None:
        return f"{planner} found no plan, and did not prove that there is none: {more}{_HELP}"
    memory = problem.cluster.memory_bytes
    over = np.asarray(nearest.peak_memory_bytes) - memory
    device = int(np.argmax(over))
    return (
        f"{planner} found no plan that fits the memory, and did not prove that there is none: the nearest exceeds "
        f"device {device} ({format_bytes(float(memory[device]))}) by {format_bytes(float(over[device]))}: {more}{_HELP}"
    )


@per_problem
def nearest_simple(problem: PlanningProblem) -> Evaluation:
    """Of simple splits made for the memory, the one that fits, or exceeds it least."""
    evaluator = Evaluator(problem)
    found = [evaluator.evaluate(a, ("1f1b",)) for a in fitting_splits(problem) or memory_splits(problem)]
    return min(found, key=lambda e: (e.over_memory_bytes, e.score(problem.objective)))
