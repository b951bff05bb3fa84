"""DAPPLE's planner on our problem: the split with the shortest estimated latency of a synchronous step.

Source: Fan et al., "DAPPLE: A Pipelined Data Parallel Approach for Training Large Models" (PPoPP 2021), section 4.
The latency of a step is that of its warm-up, steady and ending phase around a *pivot* stage Q, the one whose steady
phase has no bubbles: ``sum_{s<=Q} F_s + (M - 1) (F_Q + B_Q) + max_s(...)``; stages are replicated, and devices are
taken host by host (fresh first) or one of each host in turn (scatter first).

What differs: DAPPLE enumerates splits of a list of layers and prunes; here, for each bound on the load of a stage, a
dynamic program (`split_dp`) finds the split that one micro-batch passes fastest, which minimises DAPPLE's estimate
for that bound; the bound is scanned. Devices may be unequal. On many devices, plans with the same number of replicas
in all stages are made first. The simulation picks among the `ranked` plans of least estimate of each order of the
devices and set of replicas, because the estimate does not know which link a transfer takes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster
from drlpp.cost.problem_arrays import ProblemArrays, problem_arrays
from drlpp.plan.assignment import Assignment
from drlpp.planners.base import Budget, PlanResult, Progress, no_progress
from drlpp.planners.consecutive.device_states import DeviceStates, in_order
from drlpp.planners.consecutive.dynamic_program import DynamicProgramParams, replica_sets, split_models
from drlpp.planners.consecutive.split_program import Split, solve_split, to_assignment
from drlpp.planners.consecutive.split_states import SplitModel
from drlpp.planners.search import Search
from drlpp.planners.space.device_orders import folded, host_order
from drlpp.problem import PlanningProblem


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DappleParams:
    """Settings of the planner.

    Attributes:
        scan: factors on the smallest bottleneck at which the shortest fill is looked for; at last without a limit.
        ranked: plans of least estimate, for each order of the devices, that the simulation picks among.
        program: of the program that splits the ops.
    """

    scan: tuple[float, ...] = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.8, 2.5, 4.0)
    ranked: int = 2
    program: DynamicProgramParams = dataclasses.field(default_factory=DynamicProgramParams)


@dataclasses.dataclass(frozen=True, slots=True)
class _Estimate:
    latency_s: float
    assignment: Assignment


class Dapple:
    """Shortest estimated step latency, DAPPLE's formula."""

    name = "dapple"
    summary = "split of the shortest estimated step latency, with replication (DAPPLE, PPoPP 2021)"

    def __init__(self, params: DappleParams | None = None) -> None:
        self.params = params or DappleParams()

    def solve(
        self, problem: PlanningProblem, budget: Budget, seed: int, progress: Progress = no_progress
    ) -> PlanResult:
        search = Search(self.name, problem, budget, seed, progress, parameters=self.params)
        arrays = problem_arrays(problem)
        orders = tuple(dict.fromkeys((host_order(problem.cluster), scatter_order(problem.cluster))))
        least = math.inf
        for model in split_models(problem, arrays, np.random.default_rng(seed), self.params.program):
            for replicas, order in itertools.product(replica_sets(problem), orders):
                states = in_order(problem, arrays, folded(order, 1), replicas, reach=len(order))
                found = sorted(self._scan(problem, arrays, model, states, budget), key=lambda e: e.latency_s)
                least = min(least, *(e.latency_s for e in found), math.inf)
                self._offer(search, found)
                if budget.spent:
                    break
            if budget.spent:
                break
        return search.result({"dapple_latency_s": least} if math.isfinite(least) else {})

    def _offer(self, search: Search, found: Sequence[_Estimate]) -> None:
        """Offers the plans of least estimate, and more while none of them fits the memory."""
        fits = False
        for number, estimate in enumerate(found, start=1):
            search.offer(estimate.assignment)
            fits = fits or search.last_feasible
            if search.budget.spent or (fits and number >= self.params.ranked):
                return

    def _scan(
        self, problem: PlanningProblem, arrays: ProblemArrays, model: SplitModel, states: DeviceStates, budget: Budget
    ) -> list[_Estimate]:
        base = solve_split(model, states, budget=budget)
        if base is None:
            return []
        out = [_Estimate(step_latency_s(problem, arrays, model, states, base), to_assignment(model, states, base))]
        for factor in (*self.params.scan, math.inf):
            if budget.spent:
                break
            split = solve_split(
                model,
                states,
                value="fill",
                limit_s=base.value_s * factor * (1 + 1e-9),
                budget=budget,
            )
            if split is not None:
                latency = step_latency_s(problem, arrays, model, states, split)
                out.append(_Estimate(latency, to_assignment(model, states, split)))
        return out


def scatter_order(cluster: Cluster) -> tuple[int, ...]:
    """One device of each host in turn."""
    position = np.zeros(cluster.num_devices, dtype=np.int64)
    seen: dict[int, int] = {}
    for d, host in enumerate(cluster.host_index.tolist()):
        position[d] = seen.get(host, 0)
        seen[host] = position[d] + 1
    return tuple(int(d) for d in np.lexsort((np.arange(cluster.num_devices), position)))


def step_latency_s(
    problem: PlanningProblem, arrays: ProblemArrays, model: SplitModel, states: DeviceStates, split: Split
) -> float:
    """DAPPLE's estimate of a step: the largest over pivots of warm-up, steady and ending phase.

    Transfers between two stages count as half of the later one's forward and half of its backward time.
    """
    forward, backward, sync = _phase_seconds(problem, model, states, split)
    number = problem.training.num_microbatches
    both = forward + backward
    worst = 0.0
    for q in range(len(both)):
        warm = float(forward[: q + 1].sum())
        steady = (number - 1) * float(both[q])
        ending = max(
            float(sync[s] + (backward[s : q + 1].sum() if s <= q else -backward[q:s].sum())) for s in range(len(both))
        )
        worst = max(worst, warm + steady + ending)
    return worst


def _phase_seconds(
    problem: PlanningProblem, model: SplitModel, states: DeviceStates, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per stage forward and backward seconds per micro-batch of the step, and seconds of its gradient exchange."""
    rows = []
    for start, stop, step in split.stages:
        t = int(states.type_index[step])
        share = float(states.share[step])
        ahead = float(model.forward_s[t, stop] - model.forward_s[t, start]) * share
        whole = float(model.total_s[t, stop] - model.total_s[t, start]) * share
        moved = float(model.received[start, stop] * states.seconds_in[step]) * share
        params = float(model.param_bytes[stop] - model.param_bytes[start])
        exchange = float(states.sync_s[step] + states.sync_s_per_byte[step] * params) if params else 0.0
        rows.append((ahead + moved / 2, whole - ahead + moved / 2, exchange * problem.training.num_microbatches))
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2]
