"""``drlpp plan``: find a plan."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_engine, check_output, check_problem, check_weights
from drlpp.cli.option_groups import grouped
from drlpp.cli.terminal import out, print_json, say

if TYPE_CHECKING:
    from drlpp.plan import Objective, Plan
    from drlpp.planners.base import Planner, PlanResult
    from drlpp.planners.bounds.lower_bound import Bound
    from drlpp.planners.engines.engine import Engine
    from drlpp.problem import PlanningProblem

_EPILOG = """Examples:

drlpp plan timm:resnet50 --cluster mixed-a100-v100-t4 -o plan.json

drlpp plan transformers:GPT2LMHeadModel?n_layer=12 -c my.yaml --budget 60 --json

drlpp plan graph.txt -c paper-4x4-10gbe --planner pipedream --objective steady-state

drlpp plan transformers:LlamaForCausalLM -c paper-4x4-10gbe --for megatron -o plan.json"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Search:
    """Who searches for what, and how long."""

    planner: Annotated[str | None, typer.Option("--planner", help="See `drlpp planners` [default: drl].")] = None
    budget: inputs.Budget = 30.0
    seed: inputs.Seed = 0
    objective: inputs.OptionalObjective = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rules:
    """What a plan must keep to."""

    engine: Annotated[
        str | None,
        typer.Option("--for", metavar="ENGINE", help="Only plans that this engine can express (see docs/exports.md)."),
    ] = None
    num_stages: Annotated[
        int | None, typer.Option("--num-stages", help="So many stages in a row, with equal replicas.", min=1)
    ] = None
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="One's own split: layers of each stage, `5,6x10,5` for 5, ten times 6, 5."),
    ] = None


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=_EPILOG)(grouped(plan))


def plan(
    *,
    model: inputs.Model,
    cluster: inputs.ClusterOption,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the plan file here.")] = None,
    search: _Search,
    step: inputs.Step,
    serving: inputs.Serving,
    rules: _Rules,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", help="Write tensorboard curves of `drl` here.")] = None,
    policy: inputs.Policy,
    as_json: inputs.AsJson = False,
) -> None:
    """Find a plan: which operators form a stage, where each stage runs, and in which order.

    With --for, the search is run a second time without the engine's limits, to say what they cost. With --layers, only
    devices, recomputation and schedule are searched.
    """
    check_output(output)
    given = inputs.given_layers(rules.layers, search.planner, rules.num_stages)
    check_problem(model, cluster, [search.planner or "drl"])
    check_weights(policy.weights)
    limits = check_engine(rules.engine)
    aim = objective_for(limits, search.objective)
    problem = inputs.load_problem(model, cluster, aim, step, serving, engine=limits)
    from drlpp.cli.solve import solve_visibly
    from drlpp.errors import ExecutionError, InfeasibleError, InputError
    from drlpp.plan import plan_to_dict, save_plan
    from drlpp.planners.engines.engine import RUN
    from drlpp.planners.engines.given_split import GivenSplit
    from drlpp.planners.engines.restricted import Restricted
    from drlpp.planners.variants import lower_bound_over_variants
    from drlpp.report.tables import plan_tables
    from drlpp.solving import DRL, make_planner

    free = None if given else make_planner(search.planner or DRL, log_dir=log_dir, **dataclasses.asdict(policy))
    chosen: Planner
    if free is None:
        chosen = GivenSplit(given, limits or RUN)
    else:
        chosen = Restricted(free, limits or RUN, rules.num_stages) if limits or rules.num_stages else free
    result = solve_visibly(chosen, problem, search.budget, search.seed)
    bound = lower_bound_over_variants(problem)
    answer = _answer(result, problem, bound) | {"seed": search.seed}
    if result.plan is not None:
        answer["plan"] = str(output) if output else plan_to_dict(result.plan)
        if output:
            save_plan(result.plan, output)
    if limits and free is not None and result.plan is not None:
        open_problem = problem.with_parallelism(problem.space.parallelism)
        unlimited = solve_visibly(free, open_problem, search.budget, search.seed)
        answer["restriction"] = restriction_cost(limits, result.plan, unlimited.plan, problem.objective)
    if as_json:
        print_json(answer)
    elif result.plan is not None:
        for table in plan_tables(result.plan, bound, problem.objective):
            out().print(table)
        if "restriction" in answer:
            say(answer["restriction"]["summary"])
        say(f"plan written to {output}" if output else "not written: give -o plan.json to keep the plan")
    if result.status == "not-applicable":
        raise InputError(result.reason)
    if result.status == "infeasible":
        raise InfeasibleError(result.reason)
    if result.status == "failed":
        raise ExecutionError(f"planner {chosen.name} failed: {result.reason}")


def _answer(result: PlanResult, problem: PlanningProblem, bound: Bound) -> dict[str, Any]:
    """What ``--json`` tells of a result, but for the plan itself."""
    from drlpp.planners.bounds.gap import COUNTS, gap_of
    from drlpp.planners.break_even import BEST_BASELINE, DATA_PARALLEL, break_even, data_parallel_value_s
    from drlpp.report.comparison import comparison_row

    data_parallel_s = min(data_parallel_value_s(variant) for variant in problem.variants)
    row = comparison_row(result, problem, bound.value_s, data_parallel_s if math.isfinite(data_parallel_s) else None)
    plan, steps = result.plan, None
    gap = gap_of(plan, bound, problem.objective) if plan is not None and row.gap is not None else None
    prediction = None if plan is None else plan.prediction
    if plan is not None:
        value = problem.objective.value_s(prediction) if prediction else 0.0
        others = {DATA_PARALLEL: data_parallel_s}
        if "baseline_best_s" in result.breakdown:
            others[BEST_BASELINE] = result.breakdown["baseline_best_s"]
        steps = break_even(problem, result.planning_time_s, value, others)
    return {
        **row.to_dict(),
        "lower_bound_s": bound.value_s,
        "lower_bound_kind": bound.kind,
        "lower_bound_counts": COUNTS.get(bound.kind),
        "gap_of_transfers": gap.transfers if gap else None,
        "throughput_samples_per_s": prediction.throughput_samples_per_s if prediction else None,
        "num_stages": plan.num_stages if plan else None,
        "num_microbatches": plan.num_microbatches if plan else None,
        "micro_batch_size": plan.graph.samples_per_microbatch if plan else None,
        "global_batch": problem.global_batch,
        "precision": problem.training.precision,
        "model_flops_utilization": plan.model_flops_utilization if plan else None,
        "objective": problem.objective.value,
        "break_even_steps": steps,
        "plan": None,
    }


def objective_for(engine: Engine | None, asked: inputs.ObjectiveName | None) -> inputs.ObjectiveName:
    """The objective of a plan. Engines that only serve are planned for serving.

    Raises:
        InputError: an iteration of training is asked for with an engine that does not train.
    """
    from drlpp.errors import InputError

    if engine is None or engine.objective != "serving" or asked in (None, "serving"):
        return asked or (engine.objective if engine else "iteration-time")
    if asked == "iteration-time":
        raise InputError(
            f"--objective {asked} is an iteration of training, but {engine.title} only serves: leave it out"
        )
    say(f"{engine.title} only serves: planned for --objective serving, the load per token of every sequence")
    return "serving"


def restriction_cost(engine: Engine, plan: Plan, free: Plan | None, objective: Objective) -> dict[str, Any]:
    """What an engine's limits cost: the objective with them and without them, and the slowdown (0.1 = a tenth slower).

    A plan within the limits is one without them too, so the cost is never below zero, whatever the second search found.
    """
    from drlpp.units import format_time

    def value(p: Plan | None) -> float | None:
        if p is None or p.prediction is None:
            return None
        return objective.value_s(p.prediction)

    limited, unlimited = value(plan), value(free)
    cost = max(0.0, limited / unlimited - 1) if limited and unlimited else 0.0
    found = (
        f"found {format_time(unlimited)}: they cost {100 * cost:.1f} %"
        if unlimited and cost > 0
        else "found nothing better in the same time"
    )
    return {
        "engine": engine.name,
        "restricted_s": limited,
        "unrestricted_s": unlimited,
        "cost": cost,
        "summary": f"{engine.title} can express {format_time(limited or 0.0)}; without its limits the search {found}",
    }
