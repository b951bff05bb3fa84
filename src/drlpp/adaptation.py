"""Better plans for a run that is under way: ``python -m drlpp.adaptation`` is the process beside it that plans.

It calibrates costs from what the run measured, plans with them, and compares with the plans that ran before. It starts
with the run, so that the learned policy is there when it is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
import time

from drlpp.cost.calibration import calibrate, calibrated_plan, summary
from drlpp.errors import DrlppError, InfeasibleError
from drlpp.plan import Plan, Provenance
from drlpp.planners.base import Budget, PlanResult
from drlpp.problem import PlanningProblem, SearchSpace
from drlpp.runtime.adapt.proposals import NICENESS, Proposal, Question, packed, unpacked
from drlpp.runtime.launch.job import Adapt
from drlpp.sim import Evaluator, simulate
from drlpp.solving import solve

PLANNER = "drl"


def adaptation(*, after_steps: int = 5, planning_s: float = 2.0) -> Adapt:
    """What `drlpp.runtime.run` takes to plan anew while it trains.

    Args:
        after_steps: steps that are measured before the first new plan.
        planning_s: seconds of a processor for the search for a plan.

    Raises:
        InputError: a number is out of range.
    """
    command = (sys.executable, "-m", "drlpp.adaptation")
    return Adapt(command=command, after_steps=after_steps, planning_s=planning_s)


def propose(question: Question) -> Proposal:
    """The best plan for what was measured.

    Raises:
        InputError: the measurements do not go together.
        InfeasibleError: no plan fits the memory.
    """
    began = time.perf_counter()
    calibration = calibrate(question.measured)
    current = _predicted(calibrated_plan(question.current, calibration))
    problem = PlanningProblem(
        current.graph, current.cluster, current.training, space=SearchSpace(parallelism=question.parallelism)
    )
    budget = Budget(question.planning_s, clock=time.process_time)  # what else the machine does is no reason to stop
    result: PlanResult = solve(problem, PLANNER, budget=budget, seed=question.seed)
    evaluator = Evaluator(problem)
    again = [
        evaluator.make_plan(plan.assignment, Provenance(planner="earlier"))
        for plan in (question.current, *question.others)
    ]
    candidates = [plan for plan in ([] if result.plan is None else [result.plan]) + again if _fits(plan)]
    if not candidates:
        raise InfeasibleError(f"no plan fits the memory of {current.cluster.name!r} with measured costs")
    best = min([current, *candidates], key=_seconds)
    return Proposal(current=current, best=best, found=summary(calibration), seconds=time.perf_counter() - began)


def _predicted(plan: Plan) -> Plan:
    return dataclasses.replace(plan, prediction=simulate(plan).prediction)


def _seconds(plan: Plan) -> float:
    return float("inf") if plan.prediction is None else plan.prediction.iteration_time_s


def _fits(plan: Plan) -> bool:
    return plan.prediction is not None and all(
        size <= capacity
        for size, capacity in zip(plan.prediction.peak_memory_bytes, plan.cluster.memory_bytes.tolist(), strict=True)
    )


def main() -> None:
    """Answers questions until standard input ends."""
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    questions: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(questions,), daemon=True).start()
    import drlpp.agent.planner.planner  # noqa: F401 (while the run measures)

    while True:
        try:
            answer = {"proposal": packed(propose(unpacked(questions.get())))}
        except DrlppError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read(questions: queue.Queue[str]) -> None:
    """Ends this process, whatever it does, with its standard input: the run is over or dead then."""
    for line in sys.stdin:
        questions.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
