"""Learning from measured steps: how good is the best plan after so many plans that were measured?

    python benchmarks/measured_reward.py [--iterations 8] [--episodes 16] [--seeds 3]

What the planner is told is wrong, as it is without a profile: types of devices are up to 2x off, links up to 4x,
classes of ops up to 1.25x, and besides every op by a random factor. What a plan really takes is emulated: the simulator
with the true costs, and some per cent of noise in the step and in every event of its trace. So the same seed measures
the same.

Compared are the policy that measures every plan it draws (`drlpp train-policy --reward measured`), and the one that
measures only plans which may be better than all before, by expected improvement, and takes the calibrated simulator's
word for the others (`--reward modelled`). Beside them what is found without measuring, from what is told and from the
truth. Resumes from the output folder. Writes the section ``measured-reward`` of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drlpp.agent.training.fine_tune import TrainConfig
from drlpp.agent.training.train_on_problem import CHECKPOINT, MEASUREMENTS, train_in_folder
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost.op_times import device_times
from drlpp.graph import REFERENCE, OpGraph, OpTimes
from drlpp.graph.generate.by_name import generated_graph
from drlpp.plan import Plan, Trace, load_plan
from drlpp.problem import PlanningProblem
from drlpp.sim import simulate
from tables import machine, markdown, write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from wrong_costs import noisy_trace, true_cluster, true_graph

MODELS = {
    "transformer": "generated:transformer?seed=1",
    "nasnet": "generated:nasnet?seed=3",
    "dag": "generated:dag?ops=80&seed=2",
}
NUM_MICROBATCHES = 8
WRONG_BY = 0.2
"""Standard deviation of the logarithm of told over true times of single ops, besides their classes."""
NOISE, JITTER = 0.02, 0.05
"""Standard deviation of a measured step, and the most that an event of its trace is off."""
AFTER = (4, 8, 16, 32)
"""Numbers of measured plans."""


def told_cluster() -> Cluster:
    """Two hosts with two devices each, of two types."""
    types = (
        DeviceType(name="fast", memory_bytes=16 * 10**9, speed=1.0, speed_is_given=True),
        DeviceType(name="slow", memory_bytes=16 * 10**9, speed=0.5, speed_is_given=True),
    )
    link, port = Link(bandwidth=1e10, latency_s=1e-5), Link(bandwidth=2.5e9, latency_s=3e-5)
    hosts = tuple(Host(name=t.name, devices=(t.name,) * 2, link=link, network=port) for t in types)
    return Cluster("told", types, hosts)


def profiled(graph: OpGraph, device: DeviceType) -> OpGraph:
    """The graph with the seconds of every op as a profile would have them."""
    seconds = device_times(graph, device).tolist()
    ops = (dataclasses.replace(op, times={REFERENCE: OpTimes(*s)}) for op, s in zip(graph.ops, seconds, strict=True))
    return dataclasses.replace(graph, ops=tuple(ops))


def true_problem(told: PlanningProblem, seed: int) -> PlanningProblem:
    """What is really there."""
    rng = np.random.default_rng((seed, 1))
    cluster, graph = told.cluster, told.graph
    return dataclasses.replace(
        told, cluster=true_cluster(rng, cluster), graph=_unequal(true_graph(rng, graph, cluster), rng)
    )


def _unequal(graph: OpGraph, rng: np.random.Generator) -> OpGraph:
    """The graph with every op's times changed by a factor."""

    def changed(times: OpTimes, by: float) -> OpTimes:
        return OpTimes(times.forward_s * by, times.input_grad_s * by, times.weight_grad_s * by)

    factors = np.exp(rng.normal(0.0, WRONG_BY, graph.num_ops)).tolist()
    ops = tuple(
        dataclasses.replace(op, times={key: changed(t, by) for key, t in op.times.items()})
        for op, by in zip(graph.ops, factors, strict=True)
    )
    return dataclasses.replace(graph, ops=ops)


class Ranks:
    """Emulated ranks.

    Attributes:
        really_s: what each plan that was run really takes, without noise, in order.
    """

    def __init__(self, true: PlanningProblem, seed: int) -> None:
        self._true = true
        self._rng = np.random.default_rng((seed, 2))
        self.really_s: list[float] = []

    def seconds(self, plan: Plan) -> float:
        """What a plan really takes."""
        really = dataclasses.replace(plan, graph=self._true.graph, cluster=self._true.cluster)
        return simulate(really).prediction.iteration_time_s

    def run(self, plan: Plan) -> tuple[float, Trace]:
        """Measures a plan."""
        self.really_s.append(self.seconds(plan))
        trace = noisy_trace(self._rng, plan, self._true.cluster, self._true.graph, JITTER)
        return self.really_s[-1] * float(np.exp(self._rng.normal(0.0, NOISE))), trace

    def measure(self, plan: Plan) -> float:
        """Its seconds alone."""
        return self.run(plan)[0]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a run of learning measured and found.

    Attributes:
        really_s: of the plans that were measured, in order.
        found_s: what the plan that it would train with really takes.
    """

    really_s: tuple[float, ...]
    found_s: float

    def best_s(self, after: int) -> float:
        """The best plan among the first `after` measured ones."""
        return min(self.really_s[:after], default=self.found_s)


def learned(folder: Path, name: str, seed: int, config: TrainConfig) -> dict[str, Learned]:
    """All ways of learning, for one model and seed."""
    cluster = told_cluster()
    graph = profiled(generated_graph(MODELS[name]), cluster.device_types[0])
    told = PlanningProblem.build(graph, cluster, num_microbatches=NUM_MICROBATCHES)
    true = true_problem(told, seed)
    out = {}
    for way, problem in (("told", told), ("truth", true), ("measured", told), ("modelled", told)):
        place, ranks = folder / f"{name}-{seed}-{way}", Ranks(true, seed)
        kept = place / "learned.json"
        if not kept.exists():
            how = {"measured": {"measure": ranks.measure}, "modelled": {"run": ranks.run}}.get(way, {})
            for part in (CHECKPOINT, MEASUREMENTS):  # of a run that was interrupted
                (place / part).unlink(missing_ok=True)
            outcome = train_in_folder(place, problem, config, seed=seed, **how)
            found_s = ranks.seconds(load_plan(Path(outcome.plan)))
            kept.write_text(json.dumps({"really_s": ranks.really_s, "found_s": found_s}))
        read = json.loads(kept.read_text())
        out[way] = Learned(tuple(read["really_s"]), read["found_s"])
        print(f"{name}, seed {seed}, {way}: {len(out[way].really_s)} measured, {1e3 * out[way].found_s:.2f} ms")
    return out


def row(name: str, way: str, runs: Sequence[dict[str, Learned]]) -> list[str]:
    """A line of the table: steps over those of the plan that knowing the truth finds, geometric means over seeds."""

    def mean(values: Sequence[float]) -> str:
        return f"{float(np.exp(np.mean(np.log(values)))):.3f}"

    mine, knowing = [run[way] for run in runs], [run["truth"].found_s for run in runs]
    cells = [mean([m.found_s / k for m, k in zip(mine, knowing, strict=True)])]
    for after in AFTER:
        some = any(m.really_s for m in mine)
        cells.append(mean([m.best_s(after) / k for m, k in zip(mine, knowing, strict=True)]) if some else "-")
    measured = float(np.mean([len(m.really_s) for m in mine]))
    return [name, way, f"{measured:.0f}", *cells[1:], cells[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/measured-reward"))
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    config = TrainConfig(episodes=args.episodes, repeats=2, iterations=args.iterations)
    lines = []
    for name in MODELS:
        runs = [learned(args.output, name, seed, config) for seed in range(args.seeds)]
        lines += [row(name, way, runs) for way in ("measured", "modelled", "told")]
    text = (
        f"{len(MODELS)} models on two types of devices, {args.seeds} seeds, {args.iterations} iterations of "
        f"{args.episodes} plans. What is told is off by up to 2x (types), 4x (links), 1.25x (classes of ops) and "
        f"e^±{WRONG_BY} (ops); steps are emulated with {NOISE:.0%} of noise. {machine()}.\n\n"
        "Best true step among the first plans that were measured, and of the plan found in the end, over that of the "
        "plan which the same training finds with the true costs:\n\n"
    )
    columns = ["model", "reward", "plans measured", *(f"after {n}" for n in AFTER), "plan found"]
    write_section("measured-reward", text + markdown(columns, lines))


if __name__ == "__main__":
    main()
