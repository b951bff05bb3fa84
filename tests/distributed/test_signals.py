"""A run that is asked for a checkpoint, or to stop, keeps all that it did."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from drlpp.errors import StoppedError
from drlpp.runtime import Elastic, run
from drlpp.runtime.checkpoint import checkpoints
from paced_data import paced_data, vectors
from plan_cases import source_plan
from processes import signal_rank

pytestmark = pytest.mark.slow

STEPS = 120


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """The launcher gets SIGUSR1 and one rank alone SIGTERM; started again, the run goes on from there."""
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)
    store = tmp_path / "store"
    quiet = run(plan, steps=STEPS, seed=1, data=paced_data(tmp_path, vectors(8)))
    assert quiet is not None
    data = paced_data(tmp_path, vectors(8), slow_until="stopped")
    saved: list[int] = []

    def disturb(line: str) -> None:
        if line.startswith("step 5 of"):
            os.kill(os.getpid(), signal.SIGUSR1)
        if not saved and (there := checkpoints(store)):
            saved.extend(steps for steps, _ in there)
            signal_rank(1, signal.SIGTERM)

    stopped = r"^asked to stop \(SIGTERM\) after step \d+ of 120: the checkpoint is in .*, and the same command goes on"
    with pytest.raises(StoppedError, match=stopped):
        run(
            plan,
            steps=STEPS,
            seed=1,
            data=data,
            checkpoint=store,
            checkpoint_every=1000,
            elastic=Elastic(),
            say=disturb,
        )
    (tmp_path / "stopped").touch()
    assert len(saved) == 1
    assert saved[0] >= 5
    rest = run(plan, steps=STEPS, seed=1, data=data, checkpoint=store, checkpoint_every=1000)
    assert rest is not None
    assert saved[0] < rest.first_step < STEPS
    assert rest.losses == pytest.approx(quiet.losses[rest.first_step :], rel=1e-5)


def test_a_run_that_is_stopped_before_its_first_step(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)

    def disturb(line: str) -> None:
        if line.startswith("starting"):
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(StoppedError, match=r"^asked to stop \(SIGTERM\) before the first step$"):
        run(plan, steps=STEPS, checkpoint=tmp_path / "store", say=disturb)
