"""Simulated annealing over stage labels, devices and replication, from the results of the cheap planners.

Source of the method: Kirkpatrick, Gelatt and Vecchi, "Optimization by Simulated Annealing" (Science 1983); the label
moves with incremental loads are ours (`label_search`).

Two searches take turns. The *label search* fixes the devices of the stages and anneals the stage of every op on the
load of the stages, with hundreds of thousands of moves per second; between its runs the devices change (swap,
replicas, split and merge of stages). For the objective iteration-time a *walk* with the full simulation refines the
best plans, with moves of several ops over a boundary, of devices, and of recomputation. For the steady state, and
without replication, ops may also go to any device, which gives plans with several stages per device; and a walk on the
exact loads lets any device join or leave any stage. Restarts begin at one of the best plans so far.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.data_parallel import data_parallel_assignment
from drlpp.planners.baselines.uniform import known_splits, uniform_assignment
from drlpp.planners.consecutive.device_states import AllReduceTable
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, first_splits, run_dynamic_program
from drlpp.planners.local_search.diagram_plans import DiagramParams, offer_set_plans
from drlpp.planners.local_search.load_annealing import POWER, anneal_exactly
from drlpp.planners.local_search.moves import (
    PLACEMENT_MOVES,
    Move,
    change_replica,
    change_shares,
    free_assignment,
    merge_stages,
    move_replica,
    part_stage,
    shift_boundary,
    split_stage,
    swap_devices,
    toggle_recompute,
)
from drlpp.planners.local_search.stage_annealing import Cooling, Rules, anneal_labels, make_slots
from drlpp.planners.search import Search
from drlpp.planners.space.shares import shared
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnnealingParams:
    """Settings of the search.

    Attributes:
        max_rounds: ends the search of small problems, so that their plan does not depend on the speed of the machine.
        moves_per_op, max_moves: of a run of the label search.
        start_share: part of the budget for the planners that give the starts.
        exact_moves: of one run on a plan whose stages share devices.
        walk_steps, load_steps: of the walks with the full simulation, and on the exact loads.
        many_stages: with more stages than this the label search only polishes.
        program, diagram: settings of the planners that give the starts.
    """

    max_rounds: int = 2000
    moves_per_op: int = 1000
    max_moves: int = 400_000
    start_share: float = 0.6
    exact_moves: int = 20_000
    walk_steps: int = 150
    load_steps: int = 1500
    many_stages: int = 256
    program: DynamicProgramParams = dataclasses.field(default_factory=DynamicProgramParams)
    diagram: DiagramParams = dataclasses.field(default_factory=DiagramParams)


DEFAULTS = AnnealingParams()


class Annealing:
    """Annealing of labels and devices."""

    name = "annealing"
    summary = "simulated annealing over stages, devices and replication, started from dp"

    def __init__(self, params: AnnealingParams = DEFAULTS) -> None:
        self.params = params

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        rng = np.random.default_rng(seed)
        offer_starts(search, rng, self.params)
        start_s = search.best_value
        anneal(search, rng, self.params)
        return search.result({"start_s": start_s, "evaluations": float(search.num_offers)})


def offer_starts(search: Search, rng: np.random.Generator, params: AnnealingParams = DEFAULTS) -> None:
    """What is known of the problem, and the plans of data parallelism, uniform split, dynamic program and, for the
    steady state, sets of devices."""
    problem = search.problem
    for assignment in (*known_splits(problem), *first_splits(problem)):
        search.offer(assignment)
    if problem.may_replicate:
        search.offer(data_parallel_assignment(problem))
    search.offer(uniform_assignment(problem, min(problem.cluster.num_devices, problem.graph.num_ops)))
    whole = search.budget
    search.budget = whole.part(params.start_share)
    run_dynamic_program(search, rng, params.program)
    offer_set_plans(search, rng, params.diagram)
    search.budget = whole


def anneal(search: Search, rng: np.random.Generator, params: AnnealingParams = DEFAULTS) -> None:
    """Improves on the pool of a search until `max_rounds` or the end of the budget."""
    labels = _LabelSearch(search, problem_arrays(search.problem), params)
    for number in range(params.max_rounds):
        if search.budget.spent:
            return
        ranked = _ranked(search, number)
        start = ranked[min(len(ranked) - 1, int(rng.exponential(1.5)))][1] if number else ranked[0][1]
        if search.problem.objective.of_one_microbatch:
            if number % 3 == 2:
                labels.run_free(start, rng)
            elif number % 3 == 1:
                _walk_loads(search, start, rng, params.load_steps)
            else:
                labels.run(start if number == 0 else _changed(search.problem, start, rng, PLACEMENT_MOVES), rng)
        else:
            if number % 2 == 0:
                labels.run(start if number == 0 else _changed(search.problem, start, rng, PLACEMENT_MOVES), rng)
            _walk(search, ranked[0][1] if number % 4 else start, rng, params.walk_steps)


def _ranked(search: Search, number: int) -> list[tuple[float, Assignment]]:
    """The pool, best first: in the first of every two turns only what has equal shares, which leads to other plans."""
    ranked = sorted(search.pool, key=lambda x: x[0])
    turn = number // (3 if search.problem.objective.of_one_microbatch else 2)
    equal = [x for x in ranked if not any(s.shares for s in x[1].settings)] if turn % 2 == 0 else []
    return equal or ranked


def _changed(
    problem: PlanningProblem, start: Assignment, rng: np.random.Generator, moves: tuple[Move, ...]
) -> Assignment:
    """One to three random changes of the devices; none in a fifth of the cases."""
    current = start
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        current = moves[int(rng.integers(len(moves)))](problem, current, rng) or current
    return current


class _LabelSearch:
    """Runs of the label search for one problem."""

    def __init__(self, search: Search, arrays: ProblemArrays, params: AnnealingParams) -> None:
        self._search = search
        self._params = params
        self._arrays = arrays
        graph = search.problem.graph
        self._reduce_s = AllReduceTable(search.problem.cluster)
        self._moves = min(params.max_moves, params.moves_per_op * graph.num_ops)
        self._seconds_per_move = 2e-6

    def run(self, start: Assignment, rng: np.random.Generator) -> None:
        """Anneals the labels of an assignment with its devices, and offers the result."""
        if len({d for group in start.devices for d in group}) < sum(len(group) for group in start.devices):
            if self._search.problem.objective.of_one_microbatch:  # a device's loads add up, which slots do not know
                moves = min(self._moves, self._params.exact_moves)
                seed = int(rng.integers(2**31))
                self._search.offer(
                    anneal_exactly(self._search.problem, start, moves=moves, hot=0.005, cold=5e-5, seed=seed)
                )
            return
        labels = self._anneal(start.devices, start.stage_of_op, rng, free=False)
        self._search.offer(start.with_labels(labels), hasty=True)

    def run_free(self, start: Assignment, rng: np.random.Generator) -> None:
        """Lets every op go to any device: begins with the first replica of each stage, the other devices empty."""
        total = self._search.problem.cluster.num_devices
        devices = list(dict.fromkeys([group[0] for group in start.devices] + list(range(total))))
        position = {d: k for k, d in enumerate(devices)}
        slot_of_stage = np.array([position[group[0]] for group in start.devices])
        labels = self._anneal(tuple((d,) for d in devices), slot_of_stage[start.stage_of_op], rng, free=True)
        self._search.offer(free_assignment(self._search.problem, labels, devices), hasty=True)

    def _anneal(
        self, devices: tuple[tuple[int, ...], ...], labels: np.ndarray, rng: np.random.Generator, free: bool
    ) -> np.ndarray:
        problem = self._search.problem
        slots = make_slots(problem, self._arrays, devices, self._reduce_s)
        left = max(0.0, self._search.budget.left_s)
        moves = int(min(self._moves, left / 2 / self._seconds_per_move))
        hot = 10 ** rng.uniform(-2.5, -1.0) if len(devices) <= self._params.many_stages else 1e-4
        before = self._search.budget.elapsed_s
        best, _ = anneal_labels(
            self._arrays.ops,
            slots,
            labels,
            Cooling(moves=moves, hot=hot, cold=hot / 100, seed=int(rng.integers(2**31))),
            Rules(free=free),
        )
        if moves > 1000:
            self._seconds_per_move = max(1e-8, (self._search.budget.elapsed_s - before) / moves)
        return best


_WALK_MOVES: tuple[Move, ...] = (
    *(shift_boundary,) * 8,
    swap_devices,
    move_replica,
    split_stage,
    merge_stages,
    toggle_recompute,
)


def _with_shares(moves: tuple[Move, ...], problem: PlanningProblem) -> tuple[Move, ...]:
    """The moves, and that of shares where devices are unequal."""
    return (*moves, change_shares) if problem.may_share else moves


def _walk(search: Search, start: Assignment, rng: np.random.Generator, steps: int) -> None:
    """Annealing with the full simulation."""
    current, value = start, search.offer(start)
    moves = _with_shares(_WALK_MOVES, search.problem)
    hot = 10 ** rng.uniform(-3.5, -1.8)
    for step in range(steps):
        if search.budget.spent:
            return
        move = moves[int(rng.integers(len(moves)))]
        proposed = move(search.problem, current, rng)
        if proposed is None:
            continue
        new = search.offer(proposed, hasty=True)
        temperature = max(hot * 0.01 ** (step / steps) * value, 1e-300)
        if new <= value or rng.random() < math.exp(-(new - value) / temperature):
            current, value = proposed, new


_LOAD_MOVES: tuple[Move, ...] = (
    *(shift_boundary,) * 8,
    *(change_replica,) * 4,
    swap_devices,
    move_replica,
    split_stage,
    *(part_stage,) * 2,
    merge_stages,
)


def _walk_loads(search: Search, start: Assignment, rng: np.random.Generator, steps: int) -> None:
    """Annealing on the exact loads, where any device may join or leave any stage; the best is offered."""

    def energy(plan: Assignment) -> tuple[float, float]:
        loads = search.evaluator.loads_s(shared(search.problem, plan))
        most = float(loads.max())
        if most <= 0.0:
            return 0.0, 1e-300
        return most, most * float(((loads / most) ** POWER).sum()) ** (1.0 / POWER)

    current = best = start
    least, value = energy(start)
    moves = _with_shares(_LOAD_MOVES, search.problem)
    hot = 10 ** rng.uniform(-3.5, -1.8)
    for step in range(steps):
        if search.budget.spent:
            break
        proposed = moves[int(rng.integers(len(moves)))](search.problem, current, rng)
        if proposed is None:
            continue
        most, new = energy(proposed)
        if new <= value or rng.random() < math.exp(-(new - value) / (hot * 0.01 ** (step / steps) * value)):
            current, value = proposed, new
            if most < least:
                best, least = proposed, most
    search.offer(best)
