"""The spine: a planning problem in, a `PlanResult` out, by any planner; and a plan made anew for another cluster."""

from __future__ import annotations

import importlib
from pathlib import Path

from drlpp.cluster import Cluster
from drlpp.errors import InfeasibleError
from drlpp.plan import Plan, Provenance
from drlpp.planners.base import Budget, Planner, PlanResult, Progress, no_progress
from drlpp.planners.misses import proof_that_none_fits
from drlpp.planners.parameters import restored
from drlpp.planners.registry import PLANNERS, check_planner, get_planner
from drlpp.planners.variants import solve_over_variants
from drlpp.problem import PlanningProblem

DRL = "drl"
DRL_SUMMARY = "learned policy, fine-tuned on the problem, then refined"


def planner_names() -> list[str]:
    """Names of all planners, `drl` first."""
    return [DRL, *PLANNERS]


def planner_summaries() -> dict[str, str]:
    """Name of each planner -> what it does, in one line."""
    return {DRL: DRL_SUMMARY} | {name: get_planner(name).summary for name in PLANNERS}


def make_planner(
    name: str, *, log_dir: Path | None = None, policy_only: bool = False, weights: Path | None = None
) -> Planner:
    """A planner by name.

    Args:
        log_dir: where `drl` writes its tensorboard curves.
        policy_only: `drl` returns the policy's own best sample, without baselines and refinement.
        weights: checkpoint that `drl` starts from; None for the weights of the package, `UNTRAINED` for none.

    Raises:
        InputError: there is no planner of that name, or the weights cannot be read.
    """
    check_planner(name, planner_names())
    if name == DRL:
        from drlpp.agent.planner.planner import DrlConfig, DrlPlanner

        return DrlPlanner(DrlConfig(log_dir=log_dir, policy_only=policy_only, weights=weights))
    return get_planner(name)


def planner_of(provenance: Provenance) -> Planner:
    """The planner that made a plan, with the settings that it had.

    Raises:
        InputError: this version has no such planner or setting.
    """
    check_planner(provenance.planner, planner_names())
    if provenance.planner == DRL:
        from drlpp.agent.planner.planner import DrlConfig, DrlPlanner

        own = {key: value for key, value in provenance.parameters.items() if key != "search"}
        return DrlPlanner(restored(DrlConfig, own))
    return get_planner(provenance.planner, provenance.parameters)


def load_for(problem: PlanningProblem) -> None:
    """Loads the libraries that a search needs, so that a budget which is made after it does not pay for them."""
    if "tp" in problem.space.parallelism:
        importlib.import_module("scipy.optimize")


def solve(
    problem: PlanningProblem,
    planner: str | Planner = DRL,
    *,
    budget: float | Budget = 30.0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> PlanResult:
    """Searches for the best plan of a problem, over all micro-batch sizes and groups of devices that it leaves open.

    Args:
        planner: a name (see `planner_names`) or a planner.
        budget: seconds of search, or a running budget (which can be cancelled).
        seed: same problem, planner and seed, same search.

    Returns:
        The result; its `status` says whether there is a plan.

    Raises:
        InputError: there is no planner of that name.
    """
    chosen = make_planner(planner) if isinstance(planner, str) else planner
    load_for(problem)
    clock = budget if isinstance(budget, Budget) else Budget(budget)
    if proof := proof_that_none_fits(problem):
        return PlanResult(
            planner=chosen.name, status="infeasible", plan=None, planning_time_s=clock.elapsed_s, reason=proof
        )
    if problem.space.micro_batch_sizes or "tp" in problem.space.parallelism:
        return solve_over_variants(chosen, problem, clock, seed, progress)
    return chosen.solve(problem, clock, seed, progress)


def parallelism_of(plan: Plan) -> frozenset[str]:
    """What of `SearchSpace`.parallelism a plan uses, besides stages and replicas, which every plan may."""
    uses = {
        "tp": any(stage.sharding.tensor > 1 for stage in plan.stages),
        "sp": any(stage.sharding.sequence for stage in plan.stages),
        "zero1": plan.training.zero1,
    }
    return frozenset({"pp", "dp", *(name for name, used in uses.items() if used)})


def replan(plan: Plan, cluster: Cluster, *, budget: float = 3.0, seed: int = 0) -> Plan:
    """A plan of the same model and training set-up for another cluster, such as what is left of one, in seconds.

    It may use what the plan uses: groups that divide ops, sharded optimizer states, unequal shares.
    The learned policy samples plans for it without being trained on it; the cheap baselines and what refinement finds
    in the rest of the budget are candidates too.

    Args:
        budget: seconds of search.

    Raises:
        InfeasibleError: no plan fits.
    """
    problem = PlanningProblem(plan.graph, cluster, plan.training).with_parallelism(parallelism_of(plan))
    result = solve(problem, budget=budget, seed=seed)
    if result.plan is None:
        raise InfeasibleError(f"no plan for the {cluster.num_devices} devices of {cluster.name!r}: {result.reason}")
    return result.plan
