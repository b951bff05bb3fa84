"""Mixed-integer program for the stage of every op: any monotone partition, not only consecutive ops.

Source: the formulation follows the MILP partitioner of PiPPy (github.com/pytorch/PiPPy, `split_utils`), which
balances times and transfers over consecutive ranks, and Tarnawski et al., "Efficient Algorithms for Device Placement
of DNN Graph Operators" (NeurIPS 2020), section 5. Solved by HiGHS (Huangfu and Hall, 2018; `pip install
drlpp[solvers]`).

The graph is contracted to at most `max_groups` groups. ``y[g, s]`` says that group g is in stage s or before; a value
that is produced outside a stage and used inside loads it, and one that is produced inside and used outside too. The
objective is the largest load of a stage. Devices of the stages are given: one after another, and those of the best
plan that `dp` finds in its part of the budget, from which the program also starts and than which it is never worse.

Left out: the devices are not variables; transfers are taken between neighbouring stages. Above `max_stages` stages
the devices are taken in groups.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.errors import InputError
from drlpp.graph.coarsen import coarsen
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.baselines.uniform import uniform_assignment
from drlpp.planners.consecutive.device_states import AllReduceTable
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, run_dynamic_program
from drlpp.planners.local_search.stage_annealing import Slots, make_slots
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import host_order
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MilpParams:
    """Settings of the planner.

    Attributes:
        max_groups: groups of ops of the program.
        max_variables: groups times stages at most: fewer groups with more stages.
        max_stages: no program for more stages.
        dp_share: part of the budget for `dp`.
        solver_share: part of what is left for each start that the solver has.
        feasible_gap: relative gap at which the solver ends.
        program: of `dp`.
    """

    max_groups: int = 160
    max_variables: int = 2000
    max_stages: int = 32
    dp_share: float = 0.4
    solver_share: float = 0.7
    feasible_gap: float = 1e-3
    program: DynamicProgramParams = dataclasses.field(default_factory=DynamicProgramParams)


@dataclasses.dataclass(frozen=True, slots=True)
class _Limits:
    """What one run of the solver keeps to."""

    params: MilpParams
    seconds: float
    seed: int


class Milp:
    """HiGHS on the contracted graph."""

    name = "milp"
    summary = "mixed-integer program for the stage of every op, started from dp (HiGHS)"

    def __init__(self, params: MilpParams | None = None) -> None:
        self.params = params or MilpParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        _highs()  # says at once if it is missing
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        in_line = _in_line(problem, self.params.max_stages)
        search.offer(in_line)
        search.budget = budget.part(self.params.dp_share)
        run_dynamic_program(search, np.random.default_rng(seed), self.params.program)
        search.budget = budget
        start_s = search.best_value
        arrays = problem_arrays(problem)
        reduce_s = AllReduceTable(problem.cluster)
        starts = [search.best] if search.best is not None else []
        starts.append(in_line)
        bound_s = 0.0
        for number, start in enumerate(starts):
            if budget.spent or start.num_stages < 2 or start.num_stages > self.params.max_stages:
                continue
            slots = make_slots(problem, arrays, start.devices, reduce_s)
            seconds = budget.left_s / (len(starts) - number) * self.params.solver_share
            labels, bound = _solve(problem, arrays, slots, start.stage_of_op, _Limits(self.params, seconds, seed))
            bound_s = max(bound_s, bound) if number == 0 else bound_s
            search.offer(start.with_labels(labels))
        return search.result({"start_s": start_s, "program_bound_s": bound_s})


def _highs():  # type: ignore[no-untyped-def]
    try:
        import highspy
    except ImportError as error:
        raise InputError(
            "planner 'milp' needs highspy, which is not installed: pip install 'drlpp[solvers]'"
        ) from error
    return highspy


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Drops what C code writes to standard output."""
    sys.stdout.flush()
    saved = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _in_line(problem: PlanningProblem, max_stages: int) -> Assignment:
    """Equal op times over the devices in the order of the hosts, several devices to a stage where there are many."""
    order = host_order(problem.cluster)
    number = min(len(order), max_stages, problem.graph.num_ops)
    plain = uniform_assignment(problem, number)
    if len(order) <= max_stages or not problem.may_replicate:
        return plain
    parts = np.array_split(np.array(order), plain.num_stages)
    return Assignment(plain.stage_of_op, tuple(tuple(int(d) for d in p) for p in parts))


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The contracted graph: group of each op, arcs, and values as (group, consuming groups, amount)."""

    group_of_op: NDArray[np.int64]
    arcs: list[tuple[int, int]]
    values: list[tuple[int, tuple[int, ...], float]]


def _contract(problem: PlanningProblem, arrays: ProblemArrays, max_groups: int) -> _Groups:
    graph = problem.graph
    group = coarsen(graph, max_groups, arrays.times.total_s.mean(axis=0))
    arcs = sorted({(int(group[a]), int(group[b])) for a, b in graph.arcs.tolist() if group[a] != group[b]})
    merged: dict[tuple[int, tuple[int, ...]], float] = {}
    for v, src in enumerate(arrays.ops.value_src.tolist()):
        ends = arrays.ops.consumers(v)
        others = tuple(sorted({int(group[c]) for c in ends} - {int(group[src])}))
        if others:
            key = (int(group[src]), others)
            merged[key] = merged.get(key, 0.0) + float(arrays.ops.value_amount[v])
    return _Groups(group, arcs, [(g, others, a) for (g, others), a in sorted(merged.items())])


class _Program:
    """Rows and columns of the program as they are collected."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.upper: list[float] = []
        self.integer: list[bool] = []
        self.rows: list[tuple[dict[int, float], float]] = []

    def variable(self, upper: float = np.inf, *, integer: bool = False, cost: float = 0.0) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        self.integer.append(integer)
        return len(self.cost) - 1

    def at_most(self, terms: dict[int, float], limit: float) -> None:
        """Sum of coefficient times variable is at most `limit`."""
        self.rows.append((terms, limit))


def _solve(
    problem: PlanningProblem, arrays: ProblemArrays, slots: Slots, start: NDArray[np.int64], limits: _Limits
) -> tuple[NDArray[np.int64], float]:
    """Best labels found for given slots, and the program's own bound in seconds (of the contracted graph)."""
    stages = len(slots.devices)
    groups = _contract(problem, arrays, min(limits.params.max_groups, limits.params.max_variables // stages))
    number = int(groups.group_of_op.max()) + 1

    def per_group(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(groups.group_of_op, weights=values, minlength=number).astype(np.float64)

    seconds_of = np.array([per_group(row) for row in slots.op_s])
    ops = arrays.ops
    params, fixed, saved = (per_group(x) for x in (ops.param_bytes, ops.fixed_bytes, ops.saved_bytes))
    scale = 1.0 / max(float(seconds_of.max()), 1e-12)  # loads of the order of 1
    program = _Program()
    largest = program.variable(cost=1.0)
    y = [[program.variable(1.0, integer=True) for _ in range(stages - 1)] for _ in range(number)]

    def inside(g: int, s: int, factor: float, terms: dict[int, float]) -> float:
        """Adds factor * [group g is in stage s]; returns the constant part."""
        if s < stages - 1:
            terms[y[g][s]] = terms.get(y[g][s], 0.0) + factor
        if s > 0:
            terms[y[g][s - 1]] = terms.get(y[g][s - 1], 0.0) - factor
        return factor if s == stages - 1 else 0.0

    for g in range(number):
        for s in range(stages - 2):
            program.at_most({y[g][s]: 1.0, y[g][s + 1]: -1.0}, 0.0)
    for a, b in groups.arcs:
        for s in range(stages - 1):
            program.at_most({y[b][s]: 1.0, y[a][s]: -1.0}, 0.0)
    loads: list[dict[int, float]] = [{largest: -1.0} for _ in range(stages)]
    rooms: list[dict[int, float]] = [{} for _ in range(stages)]
    load_constant, room_constant = np.zeros(stages), np.zeros(stages)
    for s in range(stages):
        memory = float(slots.memory_bytes[s])
        for g in range(number):
            weight = (seconds_of[s, g] + params[g] * slots.sync_s_per_byte[s]) * scale
            load_constant[s] += inside(g, s, weight, loads[s])
            resident = params[g] * slots.resident_factor[s] + fixed[g]
            kept = (resident + saved[g] * slots.in_flight[s]) / memory
            room_constant[s] += inside(g, s, kept, rooms[s])
    for g, others, amount in groups.values:
        for s in range(stages):
            into = amount * (slots.receive[s - 1, s] if s else 0.0) * scale
            out = amount * (slots.send[s, s + 1] if s < stages - 1 else 0.0) * scale
            for charged, incoming in ((into, True), (out, False)):
                if charged <= 0:
                    continue
                crossing = program.variable(1.0)
                loads[s][crossing] = charged
                for c in others:
                    terms: dict[int, float] = {crossing: -1.0}
                    used, made = (c, g) if incoming else (g, c)
                    constant = inside(used, s, 1.0, terms) + inside(made, s, -1.0, terms)
                    program.at_most(terms, -constant)
    for s in range(stages):
        program.at_most(loads[s], -load_constant[s])
        program.at_most(rooms[s], 1.0 - room_constant[s])
    first = np.array([start[groups.group_of_op == g].min() for g in range(number)])
    for a, b in groups.arcs:  # a group of ops of several stages starts in the first; arcs may then need raising
        first[b] = max(first[b], first[a])
    values, bound = _run_highs(program, y, first, limits)
    if values is None:
        return start, 0.0
    label = np.array([sum(1 for s in range(stages - 1) if values[y[g][s]] < 0.5) for g in range(number)])
    return label[groups.group_of_op].astype(np.int64), bound / scale


def _run_highs(
    program: _Program, y: list[list[int]], first: NDArray[np.int64], limits: _Limits
) -> tuple[NDArray[np.float64] | None, float]:
    """Values of the variables (None if nothing feasible was found) and the bound on the objective."""
    highspy = _highs()
    columns = len(program.cost)
    entries = [(r, c, x) for r, (terms, _) in enumerate(program.rows) for c, x in terms.items()]
    rows, cols, data = zip(*entries, strict=True)
    matrix = csc_matrix((data, (rows, cols)), shape=(len(program.rows), columns))
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = columns, len(program.rows)
    lp.col_cost_ = np.array(program.cost)
    lp.col_lower_, lp.col_upper_ = np.zeros(columns), np.minimum(program.upper, highspy.kHighsInf)
    lp.row_lower_ = np.full(len(program.rows), -highspy.kHighsInf)
    lp.row_upper_ = np.array([limit for _, limit in program.rows])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    lp.integrality_ = [
        highspy.HighsVarType.kInteger if i else highspy.HighsVarType.kContinuous for i in program.integer
    ]
    with _without_stdout():
        solver = highspy.Highs()  # the first one of a process prints a banner, whatever the options
    solver.silent()
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("random_seed", limits.seed % 2**31)
    solver.setOptionValue("time_limit", max(0.05, limits.seconds))
    solver.setOptionValue("mip_rel_gap", limits.params.feasible_gap)
    solver.passModel(lp)
    known = [(y[g][s], float(s >= first[g])) for g in range(len(y)) for s in range(len(y[g]))]
    solver.setSolution(len(known), np.array([k for k, _ in known]), np.array([v for _, v in known]))
    solver.run()
    info = solver.getInfo()
    if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
        return None, 0.0
    return np.array(solver.getSolution().col_value), float(info.mip_dual_bound)
