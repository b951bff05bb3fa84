"""Adaptation: how soon and how well a run finds the plan that knowing the true costs would have given it.

    python benchmarks/adaptation.py [--steps 200] [--only wrong|phases|jitter] [--devices 4 8] [--seed 1] [--parallel 3]

Runs are emulated: devices and links behave as a cluster says that the plan does not know. Three parts:

- **wrong costs**: speeds are up to 2x off by type of device, bandwidths up to 4x by kind of link; 4 and 8 devices, for
  a chain and models with branches. The plan made with true costs, by the same planner in the same time, is the measure.
  Costs are drawn until the plan that believes otherwise takes 1.2 times as long as this one or more (predicted).
- **phases**: one device becomes twice as slow at a quarter of the run and recovers at 60 % of it. Plans made with the
  costs of each phase are the measure.
- **jitter**: every action and message takes up to 20 % more or less; nothing else happens after the first switch.

What is compared was measured: plans made with true costs are emulated too. Emulated time is apart from the wall's, so
several cases may run beside each other. Writes the section ``adaptation`` of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import yaml

from drlpp.adaptation import adaptation
from drlpp.cluster import Cluster, DeviceType, Host, Link, cluster_to_dict
from drlpp.graph import OpGraph
from drlpp.graph.generate.by_name import generated_graph
from drlpp.plan import Plan
from drlpp.planners.base import Budget
from drlpp.problem import PlanningProblem
from drlpp.runtime import RunReport, run
from drlpp.sim import simulate
from drlpp.solving import solve
from tables import machine, markdown, write_section

MODELS = {"chain": "generated:transformer?seed=1", "branches": "generated:nasnet?seed=3"}
BUDGET_S, ACTION_S = 2.0, 0.02
KNOWN_STEPS, REACTION_STEPS = 12, 15
REACHED, AHEAD = 1.05, 3
BAD = 1.2


def believed(num_devices: int) -> Cluster:
    """Hosts of two devices, of two types in turn."""
    types = (
        DeviceType(name="fast", memory_bytes=16 * 10**9, speed=1.0, speed_is_given=True),
        DeviceType(name="slow", memory_bytes=16 * 10**9, speed=0.5, speed_is_given=True),
    )
    link, port = Link(bandwidth=1e10, latency_s=1e-5), Link(bandwidth=2.5e9, latency_s=3e-5)
    hosts = tuple(
        Host(name=f"h{i}", devices=(types[i % 2].name,) * 2, link=link, network=port) for i in range(num_devices // 2)
    )
    return Cluster(f"believed-{num_devices}", types, hosts)


def off(cluster: Cluster, seed: int) -> Cluster:
    """A cluster whose types are off by up to 2x and whose links are off by up to 4x."""
    rng = np.random.default_rng(seed)

    def factor(most: float) -> float:
        return float(np.exp(rng.uniform(-np.log(most), np.log(most))))

    types = tuple(dataclasses.replace(t, speed=t.speed * factor(2)) for t in cluster.device_types)
    inside, network = factor(4), factor(4)

    def other(link: Link | None, by: float) -> Link | None:
        return None if link is None else dataclasses.replace(link, bandwidth=link.bandwidth * by)

    hosts = tuple(
        dataclasses.replace(h, link=other(h.link, inside), network=other(h.network, network)) for h in cluster.hosts
    )
    return Cluster(f"real-{cluster.num_devices}", types, hosts)


def slower(cluster: Cluster, device: int, factor: float) -> Cluster:
    """A cluster with one device of a type of its own."""
    old = cluster.devices[device].type
    mine = dataclasses.replace(old, name=f"{old.name}-slower", speed=old.speed / factor)
    names = iter([mine.name if d.id == device else d.type.name for d in cluster.devices])
    hosts = tuple(dataclasses.replace(h, devices=tuple(next(names) for _ in h.devices)) for h in cluster.hosts)
    return Cluster(f"{cluster.name}-slower", (*cluster.device_types, mine), hosts)


def planned(graph: OpGraph, cluster: Cluster) -> Plan:
    """The plan of the learned planner."""
    problem = PlanningProblem.build(graph, cluster, num_microbatches=2 * cluster.num_devices)
    plan = solve(problem, budget=Budget(BUDGET_S, clock=time.process_time)).plan
    if plan is None:
        raise SystemExit(f"no plan for {graph.name} on {cluster.name}")
    return plan


def time_scale(plan: Plan) -> float:
    """Seconds of the run per emulated second, at which the mean action takes `ACTION_S`; one for all runs of a case."""
    actions = 2 * plan.num_microbatches + 2 * (plan.num_stages - 1)
    step_s = plan.prediction.iteration_time_s if plan.prediction is not None else 1.0
    return ACTION_S * actions / step_s


class Emulation:
    """Runs of one case: what the devices really do is in a file."""

    def __init__(self, folder: Path, real: Cluster, scale: float) -> None:
        self.scale = scale
        self._folder = folder
        self._cluster = folder / "real.yaml"
        self._cluster.write_text(yaml.safe_dump(cluster_to_dict(real)))

    def run(self, plan: Plan, steps: int, *, adapt: bool = False, events: object = None) -> RunReport:
        """Runs a plan."""
        path = None
        if events is not None:
            path = self._folder / "events.yaml"
            path.write_text(yaml.safe_dump({"schema_version": 1, **dict(events)}))  # type: ignore[call-overload]
        report = run(
            plan,
            steps=steps,
            time_scale=self.scale,
            emulate_cluster=self._cluster,
            emulate_events=path,
            adapt=adaptation(planning_s=BUDGET_S) if adapt else None,
        )
        if report is None:
            raise SystemExit("a run under torchrun: start this script alone")
        return report

    def known_s(self, plan: Plan, cluster: Cluster) -> float:
        """Seconds of a step of a plan that knows the costs of a cluster."""
        self._cluster.write_text(yaml.safe_dump(cluster_to_dict(cluster)))
        return statistics.median(self.run(dataclasses.replace(plan, cluster=cluster), KNOWN_STEPS).step_times_s)


def switches(report: RunReport) -> list[int]:
    """The steps after which another plan took over."""
    return [d.step for d in report.decisions if d.kind == "switched"]


def total_s(report: RunReport) -> float:
    """Seconds of all steps and switches."""
    return sum(report.step_times_s) + sum(d.cost_s or 0.0 for d in report.decisions if d.kind == "switched")


def reached(times: Sequence[float], known_s: float) -> int | None:
    """The first step from which on a few steps take no more than 5 % more than with the known plan."""
    near = [statistics.median(times[i : i + AHEAD]) <= REACHED * known_s for i in range(len(times) - AHEAD + 1)]
    return next((i for i, yes in enumerate(near) if yes), None)


def badly_off(plan: Plan, first: int) -> tuple[int, Cluster, Plan]:
    """The first seed whose costs make a plan bad, the cluster with these costs, and the plan that knows them.

    Args:
        first: seed that is tried.
    """
    seed = first
    while True:
        real = off(plan.cluster, seed)
        known = planned(plan.graph, real)
        if predicted_s(plan, real) >= BAD * predicted_s(known, real):
            return seed, real, known
        seed += 1


def predicted_s(plan: Plan, cluster: Cluster) -> float:
    """Seconds of a step with the costs of a cluster."""
    return simulate(dataclasses.replace(plan, cluster=cluster, prediction=None)).prediction.iteration_time_s


def wrong_costs(folder: Path, name: str, num_devices: int, steps: int, first: int) -> list[str]:
    """One row of the first part."""
    graph, cluster = generated_graph(MODELS[name]), believed(num_devices)
    plan = planned(graph, cluster)
    seed, real, known = badly_off(plan, first)
    emulation = Emulation(folder, real, time_scale(known))
    known_s = emulation.known_s(known, real)
    report = emulation.run(plan, steps, adapt=True)
    times = report.step_times_s
    at = reached(times, known_s)
    return [
        f"{name} ({graph.num_ops} ops)",
        str(num_devices),
        str(seed),
        f"{statistics.median(times[:4]) / known_s:.2f}",
        "never" if at is None else str(at),
        f"{statistics.median(times[-20:]) / known_s:.3f}",
        f"{total_s(report) / (steps * known_s):.3f}",
        ", ".join(map(str, switches(report))) or "none",
    ]


def phases(folder: Path, name: str, num_devices: int, steps: int, seed: int) -> list[str]:
    """One row of the second part."""
    graph, cluster = generated_graph(MODELS[name]), believed(num_devices)
    real = off(cluster, seed)
    plan, device = planned(graph, cluster), 1
    slow = slower(real, device, 2.0)
    known, known_slow = planned(graph, real), planned(graph, slow)
    emulation = Emulation(folder, real, time_scale(known))
    slow_s = emulation.known_s(known_slow, slow)
    known_s = emulation.known_s(known, real)
    begin, end = steps // 4, steps * 6 // 10
    event = {"device": device, "slower": 2.0, "from_step": begin, "until_step": end}
    report = emulation.run(plan, steps, adapt=True, events={"events": [event]})
    times = report.step_times_s
    parts = [(20, begin - 1, known_s), (begin - 1 + REACTION_STEPS, end - 1, slow_s)]
    parts.append((end - 1 + REACTION_STEPS, steps, known_s))
    throughputs = [seconds / statistics.mean(times[a:b]) for a, b, seconds in parts]
    return [str(num_devices), *(f"{t:.1%}" for t in throughputs), ", ".join(map(str, switches(report)))]


def jitter(folder: Path, name: str, num_devices: int, steps: int, seed: int) -> list[str]:
    """One row of the third part."""
    graph, cluster = generated_graph(MODELS[name]), believed(num_devices)
    real = off(cluster, seed)
    emulation = Emulation(folder, real, time_scale(planned(graph, real)))
    report = emulation.run(planned(graph, cluster), steps, adapt=True, events={"jitter": 0.2})
    changes = [d.step for d in report.decisions if d.kind == "change"]
    return [str(num_devices), ", ".join(map(str, switches(report))), ", ".join(map(str, changes)) or "none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--devices", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--seed", type=int, default=1, help="of the costs that the plan does not know")
    parser.add_argument("--parallel", type=int, default=3, help="cases that run at the same time")
    parser.add_argument("--json", type=Path, help="write the rows here, case by case, and no section")
    parser.add_argument("--rows", type=Path, nargs="+", help="write the section from rows that --json kept")
    options = parser.parse_args()
    if options.rows:
        kept = [json.loads(path.read_text()) for path in options.rows]
        merged = {part: sorted((row for rows in kept for row in rows[part]), key=_order) for part in PARTS}
        where = "; ".join(dict.fromkeys(rows["machine"] for rows in kept))
        write_section("adaptation", section(merged, options.steps, where))
        return
    rows: dict[str, list[list[str]]] = {part: [] for part in PARTS}
    cases = [
        (part, model, num_devices, options.steps, options.seed)
        for num_devices in sorted(options.devices, reverse=True)  # the longest ones first
        for part, (_, models) in PARTS.items()
        if options.only in (None, part)
        for model in models
    ]
    with ProcessPoolExecutor(options.parallel, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(row_of, *case): case[0] for case in cases}
        for done in as_completed(running):
            part = running[done]
            rows[part] = sorted([*rows[part], done.result()], key=_order)
            print(f"{part}: {done.result()}", flush=True)
            if options.json:
                options.json.write_text(json.dumps({"machine": machine(), **rows}, indent=1))
    if not options.json:
        write_section("adaptation", section(rows, options.steps, machine()))


def row_of(part: str, model: str, num_devices: int, steps: int, seed: int) -> list[str]:
    """A row of a part, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return PARTS[part][0](Path(folder), model, num_devices, steps, seed)


PARTS = {"wrong": (wrong_costs, list(MODELS)), "phases": (phases, ["chain"]), "jitter": (jitter, ["chain"])}
"""Part -> what makes a row of it, and for which models."""


def _order(row: list[str]) -> tuple[int, str]:
    """Devices, and the model where there are several."""
    return int(next(cell for cell in row[:2] if cell.isdigit())), row[0]


def section(rows: dict[str, list[list[str]]], steps: int, where: str) -> str:
    """The text of the results; `where` says on which machine and commit they were measured."""
    wrong = [
        "model",
        "devices",
        "seed",
        "first steps",
        "within 5 % after",
        "last steps",
        f"{steps} steps",
        "switched after",
    ]
    parts = ["devices", "before", "while slower", "after", "switched after"]
    return "\n\n".join(
        [
            f"{where}. Ratios are to the plan that knew the true costs, emulated too; {steps} steps each. Wrong costs "
            f"(types up to 2x, links up to 4x; the first seed whose costs make the plan {BAD:g} times as slow as it "
            "could be, or slower):",
            markdown(wrong, rows["wrong"]),
            f"One device is twice as slow for a while: throughput over that of the best plan for each phase, from "
            f"{REACTION_STEPS} steps after its begin:",
            markdown(parts, rows["phases"]),
            "20 % of jitter:",
            markdown(["devices", "switched after", "changes seen after"], rows["jitter"]),
        ]
    )


if __name__ == "__main__":
    main()
