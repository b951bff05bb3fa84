"""Rank 0's part of adaptation: from measured steps to decisions.

1. After the first steps, and whenever something has changed for good, it asks for a plan (`proposals`). The ranks train
   on meanwhile.
2. It switches where the gain over the steps that are left is larger than the cost of the switch, and where the new plan
   is better by more than the errors of predictions. The cost is the seconds of the bytes that move, and of building,
   which is learned from each switch.
3. It compares what devices and links take with what the calibrated costs say, step by step (`watch`), and a new plan
   with its prediction. What was measured before a change counts for all units but the changed ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from drlpp.cost import StageCosts, costs_of_plan
from drlpp.cost.calibration import Measurements, measurements
from drlpp.cost.links import transfer_s
from drlpp.cost.moves import move_s, moved_bytes
from drlpp.errors import ExecutionError
from drlpp.plan import Plan, Trace
from drlpp.runtime.adapt.decisions import Decision
from drlpp.runtime.adapt.proposals import PlanningProcess, Proposal, Question
from drlpp.runtime.adapt.watch import DEVICES, LINKS, Change, ChangeDetector
from drlpp.runtime.launch.job import Adapt
from drlpp.units import format_time

LEAST_GAIN = 0.03
"""A plan has to be better by this part: predictions of plans that did not run are not more exact."""
SURPRISE = 0.05
"""A plan that is off its prediction by this part is calibrated anew."""
KEPT, NEEDED = 8, 3
"""Steps of a plan that are remembered, and that are needed to say something."""
REFINEMENTS = 3
"""New plans after surprises, before something changes for good."""
DEEPER = 2
"""Longer searches, of twice the seconds each, after the first one, before something changes for good."""
PLANNING_PART = 0.05
"""A longer search takes at most this part of the time that is left."""
MOST_PATIENCE = 64
"""Steps without a new plan after some that led to nothing."""
_BUILDING_S = 0.5
"""What building the stages takes, before it was measured."""


@dataclasses.dataclass
class _Run:
    """The steps of one plan: number and trace of each."""

    plan: Plan
    steps: list[tuple[int, Trace]] = dataclasses.field(default_factory=list)


class Controller:
    """Decides.

    Args:
        plan: that runs first.
        adapt: how.
        total_steps: of the run.
        seed: of the search for plans.
        time_scale: seconds of this run per second that is measured (of an emulated run).
        say: called with a line about every decision.
    """

    def __init__(
        self, plan: Plan, adapt: Adapt, total_steps: int, seed: int, time_scale: float, say: Callable[[str], None]
    ) -> None:
        self.decisions: list[Decision] = []
        self._base = plan
        self._adapt, self._total, self._seed, self._scale, self._say = adapt, total_steps, seed, time_scale, say
        self._process = PlanningProcess(adapt.command)
        self._runs = [_Run(plan)]
        self._believed: Plan | None = None  # the plan that runs, with calibrated costs
        self._costs: StageCosts | None = None  # of its stages
        self._changed: dict[Hashable, int] = {}  # device, or pair of hosts -> first step of its last change
        self._devices, self._links = ChangeDetector(DEVICES), ChangeDetector(LINKS)
        self._want, self._over = True, False
        self._refinements, self._depth = 0, 0
        self._patience, self._quiet_until = NEEDED, 0
        self._parallelism = frozenset({"pp", "dp"})
        self._building_s = _BUILDING_S / time_scale
        self._moving_s = 0.0
        self._ratio = 1.0  # of measured to predicted seconds of a step

    def close(self) -> None:
        """Ends the process that plans."""
        self._process.close()

    def keep_pace(self, seconds: float) -> None:
        """So much time went by on an emulated cluster."""
        self._process.give(seconds)

    def observe(self, step: int, trace: Trace) -> None:
        """Takes the trace of a step (`step` steps are done by then)."""
        run = self._runs[-1]
        run.steps = [*run.steps, (step, trace)][-KEPT:]
        if self._believed is None or self._costs is None or self._want or self._over or self._process.busy:
            return  # nothing to compare with, or a new plan is on its way, or none will come
        units, pairs = _ratios(self._believed, self._costs, trace)
        changes = self._devices.look(step, units) + self._links.look(step, pairs)
        if changes and step >= self._quiet_until:
            self._note(step, changes)
        elif len(run.steps) == NEEDED and self._refinements < REFINEMENTS and self._surprised(run):
            self._refinements += 1
            self._want = True
        elif len(run.steps) >= NEEDED and self._depth < DEEPER and self._pays(step, run):
            self._depth += 1
            self._want = True

    def decide(self, step: int) -> Plan | None:
        """The plan to switch to now, if there is one."""
        if self._over:
            return None
        try:
            if self._process.busy:
                proposal = self._process.answer()
                return None if proposal is None else self._judge(step, proposal)
            if self._want and self._enough(step):
                self._ask(step)
        except ExecutionError as error:
            self._want, self._over = False, True
            self._decide(Decision(step=step, kind="failed", text=str(error)))
        return None

    def switched(self, step: int, plan: Plan, seconds: float) -> None:
        """The ranks run `plan` now; the switch took `seconds` of a clock on the wall."""
        seconds /= self._scale
        self._building_s = 0.5 * self._building_s + 0.5 * max(0.0, seconds - self._moving_s)
        self._runs.append(_Run(with_costs_of(plan, self._base)))
        self._believe(plan)
        text = f"switched in {format_time(seconds)}"
        self._decide(Decision(step=step, kind="switched", text=text, cost_s=seconds))

    def refused(self, step: int, reason: str) -> None:
        """The runtime cannot run the plan: the next one has no replicas, which is what it refuses."""
        self._decide(Decision(step=step, kind="refused", text=f"the new plan cannot be run: {reason}"))
        self._want, self._parallelism = "dp" in self._parallelism, frozenset({"pp"})

    def _note(self, step: int, changes: Sequence[Change]) -> None:
        for change in changes:
            self._changed[change.unit] = change.since
            what = f"device {change.unit}" if isinstance(change.unit, int) else _links_between(self._base, change.unit)
            text = f"{what} takes {change.factor:.2f} times the seconds, since step {change.since}"
            self._decide(Decision(step=step, kind="change", text=text))
        self._forget()
        self._want, self._refinements, self._depth = True, 0, 0

    def _surprised(self, run: _Run) -> bool:
        predicted_s = _predicted_s(self._believed) * self._ratio
        return predicted_s > 0 and abs(math.log(_measured_s(run) / predicted_s)) > SURPRISE

    def _pays(self, step: int, run: _Run) -> bool:
        """Whether there is time for a search that is twice as long as the last one."""
        left_s = (self._total - step) * _measured_s(run) * self._scale
        return self._planning_s(self._depth + 1) < PLANNING_PART * left_s

    def _planning_s(self, depth: int) -> float:
        return self._adapt.planning_s * 2.0**depth

    def _enough(self, step: int) -> bool:
        run = self._runs[-1]
        needed = self._adapt.after_steps - 1 if len(self._runs) == 1 and self._believed is None else NEEDED
        after = max(self._changed.values(), default=0)
        return self._total - step > NEEDED and len([s for s, _ in run.steps if s >= after]) >= needed

    def _ask(self, step: int) -> None:
        self._want = False
        question = Question(
            measured=tuple(self._measured()),
            current=self._runs[-1].plan,
            others=tuple(run.plan for run in self._runs[:-1][-4:]),
            parallelism=self._parallelism,
            planning_s=self._planning_s(self._depth),
            seed=self._seed + step,
        )
        self._process.ask(question)

    def _measured(self) -> list[Measurements]:
        """What all steps measured, each without the units that changed after it."""
        out = []
        for run in self._runs:
            by_change: dict[frozenset[Hashable], list[Trace]] = defaultdict(list)
            for step, trace in run.steps:
                by_change[frozenset(unit for unit, since in self._changed.items() if step < since)].append(trace)
            for units, traces in by_change.items():
                devices = [u for u in units if isinstance(u, int)]
                hosts = [u for u in units if isinstance(u, frozenset)]
                out.append(measurements(run.plan, traces).without(devices, hosts))
        return out

    def _judge(self, step: int, proposal: Proposal) -> Plan | None:
        run = self._runs[-1]
        measured_s, current_s, best_s = _measured_s(run), _predicted_s(proposal.current), _predicted_s(proposal.best)
        first = self._believed is None
        self._believe(proposal.current)
        self._ratio = measured_s / current_s
        self._moving_s = move_s(proposal.best.cluster, moved_bytes(run.plan, proposal.best))
        cost_s = self._building_s + self._moving_s
        gain_s = (current_s - best_s) * self._ratio * (self._total - step)
        # costs that cannot be fitted look changed for ever: each time that nothing came of it, wait twice as long
        switch = best_s < (1 - LEAST_GAIN) * current_s and gain_s > self._adapt.worth * cost_s
        before = _predicted_s(self._base)
        text = (
            f"a step takes {format_time(measured_s)}, {format_time(before)} as planned, {format_time(current_s)} with "
            f"measured costs; "
            if first
            else f"a step takes {format_time(measured_s)}, {format_time(current_s)} with measured costs; "
        )
        text += (
            f"the best plan takes {format_time(best_s)} ({proposal.best.num_stages} stages, devices "
            f"{', '.join(map(str, proposal.best.used_devices))}): "
        )
        text += f"switching gains {format_time(max(gain_s, 0.0))} and costs {format_time(cost_s)}" if switch else "kept"
        decision = Decision(
            step=step,
            kind="switch" if switch else "keep",
            text=text,
            measured_s=measured_s,
            predicted_s=current_s,
            best_s=best_s,
            gain_s=gain_s,
            cost_s=cost_s,
            planning_s=proposal.seconds,
            num_stages=proposal.best.num_stages,
            devices=proposal.best.used_devices,
        )
        self._decide(decision)
        self._patience = NEEDED if switch else min(2 * self._patience, MOST_PATIENCE)
        self._quiet_until = step if switch else step + self._patience
        return proposal.best if switch else None

    def _believe(self, plan: Plan) -> None:
        """From now on steps are compared with the costs of this plan, which is the one that runs."""
        self._believed, self._costs = plan, costs_of_plan(plan)
        self._forget()

    def _forget(self) -> None:
        self._devices.forget()
        self._links.forget()

    def _decide(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self._say(f"adapt: step {decision.step}: {decision.text}")


def with_costs_of(plan: Plan, believed: Plan) -> Plan:
    """A plan with the costs of another one of the same devices; without a prediction."""
    return dataclasses.replace(plan, graph=believed.graph, cluster=believed.cluster, prediction=None)


def _ratios(plan: Plan, costs: StageCosts, trace: Trace) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
    """Measured over expected seconds: of each device's actions, and of the messages between (or inside of) hosts."""
    host = plan.cluster.host_index.tolist()
    parts = {"F": costs.forward_s, "I": costs.input_grad_s + costs.again_s, "W": costs.weight_grad_s}
    parts["B"] = parts["I"] + costs.weight_grad_s
    measured: dict[int, float] = defaultdict(float)
    expected: dict[int, float] = defaultdict(float)
    links: dict[Hashable, list[float]] = defaultdict(list)
    for e in trace.events:
        if e.kind in ("F", "B", "I", "W"):
            measured[e.device] += e.end_s - e.start_s
            expected[e.device] += float(parts[e.kind][e.stage, e.device])
        elif e.kind == "send" and not plan.graph.has_transfer_times:
            seconds = transfer_s(plan.cluster.path(e.device, e.receiver), e.bytes)
            links[frozenset((host[e.device], host[e.receiver]))].append((e.end_s - e.start_s) / seconds)
    devices: dict[Hashable, float] = {d: measured[d] / s for d, s in expected.items() if s > 0 and measured[d] > 0}
    return devices, {pair: max(float(np.median(ratios)), 1e-9) for pair, ratios in links.items()}


def _measured_s(run: _Run) -> float:
    return float(np.median([trace.iteration_time_s for _, trace in run.steps]))


def _predicted_s(plan: Plan | None) -> float:
    return 0.0 if plan is None or plan.prediction is None else plan.prediction.iteration_time_s


def _links_between(plan: Plan, unit: Hashable) -> str:
    hosts = sorted(unit) if isinstance(unit, frozenset) else []
    names = [plan.cluster.hosts[h].name for h in hosts]
    return f"the links inside host {names[0]}" if len(names) == 1 else f"the link between hosts {' and '.join(names)}"
