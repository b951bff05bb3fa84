"""Random plans of small models that lose ranks at random moments, for as long as one likes: is the training the same?

Each round takes a model and a random legal plan, trains it elastically while ranks are killed, stopped or slowed down
at random moments (what is left gets a random plan again, or the same plan starts again in place), and then goes on from
its checkpoint in another run, under yet another plan. Half of the rounds also switch to random plans while they train
(`drlpp run --adapt`). All losses have to be those of one process that nothing happens to.

    python benchmarks/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import pickle
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tables import machine, write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import small_models
from drlpp.capture import capture, load_model
from drlpp.cluster import Cluster
from drlpp.plan import Plan
from drlpp.runtime import Elastic, reference_run, run
from drlpp.runtime.launch.job import Adapt
from drlpp.runtime.optimizers import optimizer_factory
from plan_cases import random_plan
from processes import ranks, signal_a_rank

STEPS, MORE = 30, 40
HELPERS = Path(small_models.__file__).parent
SWITCHING_STEPS, SWITCHING_MORE = 600, 800
"""Of rounds that switch: the process that plans takes some seconds to come up."""
TOLERANCE = 1e-3
STOPPED, SLOWED = 0.15, 0.3
"""Parts of the disturbances that stop a rank in place of killing it, and that hold it up for a while."""
LONGEST_S = 3.0
"""A rank is held up so long at most: less than what a rank is given up after."""


@dataclasses.dataclass
class Disturbance:
    """Kills or stops a random rank at a random moment after some steps, and measures how long that is unseen."""

    rng: random.Random
    steps: set[int]
    counts: Counter[str]
    slowest_s: float = 0.0
    _sent: float = 0.0

    def __call__(self, line: str) -> None:
        if line.startswith(("rank ", "starting")):
            if self._sent and line.startswith("rank "):
                self.slowest_s = max(self.slowest_s, time.monotonic() - self._sent)
            self._sent = 0.0
        match = re.match(r"step (\d+) of", line)
        if match and int(match.group(1)) in self.steps:
            self.steps.discard(int(match.group(1)))
            time.sleep(self.rng.random() * 0.05)
            draw = self.rng.random()
            stop = draw < STOPPED
            if not stop and draw < STOPPED + SLOWED:
                self._slow_down()
            elif signal_a_rank(self.rng, signal.SIGSTOP if stop else signal.SIGKILL):
                self.counts["stopped" if stop else "killed"] += 1
                self._sent = time.monotonic()

    def _slow_down(self) -> None:
        """Holds a rank up for a while."""
        there = sorted(ranks().values())
        if there:
            process = self.rng.choice(there)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
                threading.Timer(self.rng.random() * LONGEST_S, _go_on, [process]).start()
                self.counts["slowed"] += 1


def _go_on(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def switching(plans: list[Plan], path: Path) -> Adapt:
    """Adaptation with a process that proposes these plans in turn, and claims that each is far better."""
    path.write_bytes(pickle.dumps(plans))
    return Adapt(command=(sys.executable, str(HELPERS / "other_plans.py"), str(path)), every=1, after_steps=2)


def round_of(seed: int, counts: Counter[str]) -> tuple[str, float, float]:
    """One round: the model, the largest relative difference of a loss, and the longest time to detection."""
    rng = random.Random(seed)
    name = rng.choice(sorted(small_models.ALL))
    source = load_model(f"{small_models.__file__}:{name}")
    captured = capture(source, device="cpu", seed=seed)
    plans = itertools.count(1000 * seed)

    def drawn(num_devices: int, microbatches: int) -> Plan:
        return random_plan(captured.graph, next(plans), num_devices=num_devices, num_microbatches=microbatches)

    def again(plan: Plan, cluster: Cluster) -> Plan:
        counts["re-planned"] += 1
        made = drawn(cluster.num_devices, plan.num_microbatches)
        return dataclasses.replace(made, cluster=cluster, training=plan.training)

    plan = drawn(rng.randint(2, 3), rng.randint(1, 5))
    elastic = Elastic(replan=None if rng.random() < 0.3 else again, max_restarts=10)
    switches = rng.random() < 0.5
    ends = (SWITCHING_STEPS, SWITCHING_MORE) if switches else (STEPS, MORE)
    disturbance = Disturbance(rng, set(rng.sample(range(1, ends[0]), 2)), counts)
    losses: list[float] = []
    with tempfile.TemporaryDirectory(prefix="drlpp-soak-") as folder:
        every = rng.randint(1, 8) * (10 if switches else 1)
        if plan.cluster.num_devices == 2 and elastic.replan is not None:
            disturbance.steps.pop()
        for steps in ends:
            others = [
                dataclasses.replace(drawn(plan.cluster.num_devices, plan.num_microbatches), training=plan.training)
                for _ in range(6 if switches else 0)
            ]
            report = run(
                plan,
                steps=steps,
                seed=seed,
                checkpoint=Path(folder) / "store",
                checkpoint_every=every,
                elastic=elastic,
                adapt=switching(others, Path(folder) / "plans.pickle") if switches else None,
                say=disturbance,
            )
            if report is None:
                raise RuntimeError("this is not for torchrun")
            losses += report.losses
            counts["restarts"] += len(report.restarts)
            counts["switches"] += sum(d.kind == "switched" for d in report.decisions)
            plan = dataclasses.replace(drawn(2, plan.num_microbatches), training=plan.training)
    expected = reference_run(
        captured,
        seed=seed,
        num_microbatches=plan.num_microbatches,
        steps=ends[1],
        make_optimizer=optimizer_factory(plan.training.optimizer, 1e-3),
    ).losses
    counts["steps"] += len(losses)
    if len(losses) != len(expected):
        raise RuntimeError(f"seed {seed}, {name}: {len(losses)} losses in place of {len(expected)}")
    error = float(np.max(np.abs(np.array(losses) / np.array(expected) - 1)))
    if not error <= TOLERANCE:
        raise RuntimeError(f"seed {seed}, {name}: losses differ by {error:.1e}")
    return name, error, disturbance.slowest_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    began, errors, slowest = time.monotonic(), [], []
    models: set[str] = set()
    for seed in itertools.count(arguments.seed):
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        name, error, slow = round_of(seed, counts)
        counts["rounds"] += 1
        models.add(name)
        errors.append(error)
        slowest.append(slow)
        print(f"{time.monotonic() - began:6.0f} s, seed {seed}: {name}, losses within {error:.1e}", flush=True)
    text = (
        f"{(time.monotonic() - began) / 60:.0f} minutes, {machine()}.\n\n"
        f"{counts['rounds']} rounds of {MORE} or {SWITCHING_MORE} steps ({len(models)} models): {counts['killed']} "
        f"ranks killed, {counts['stopped']} stopped and {counts['slowed']} held up for up to {LONGEST_S:.0f} s at "
        f"random moments, {counts['switches']} switches of the plan while training, {counts['restarts']} restarts, "
        f"{counts['re-planned']} of them under a new random plan, {counts['rounds']} resumptions under another plan. "
        f"Losses differ from one undisturbed process by at most {max(errors):.1e}; the longest time to detection was "
        f"{max(slowest):.1f} s."
    )
    write_section("soak", text)
    print(text)


if __name__ == "__main__":
    main()
