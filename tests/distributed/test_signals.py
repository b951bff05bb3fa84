"""A run that is asked for a checkpoint, or to stop, keeps all that it did."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from drlpp.errors import StoppedError
from drlpp.runtime import Elastic, run
from plan_cases import source_plan
from processes import signal_rank

pytestmark = pytest.mark.slow

STEPS = 60
DATA = """
import time, torch
def batches():
    generator = torch.Generator().manual_seed(3)
    while True:
        time.sleep(0.03)
        yield torch.randn(8, 6, generator=generator), torch.randn(8, 2, generator=generator)
"""


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """The launcher gets SIGUSR1 and one rank alone SIGTERM; started again, the run goes on from there."""
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)
    (tmp_path / "data.py").write_text(DATA)
    data, store = f"{tmp_path}/data.py:batches", tmp_path / "store"
    quiet = run(plan, steps=STEPS, seed=1, data=data)
    assert quiet is not None
    folders: list[list[str]] = []

    def disturb(line: str) -> None:
        if line.startswith("step 5 of"):
            os.kill(os.getpid(), signal.SIGUSR1)
        if line.startswith("step 20 of"):
            folders.append(sorted(p.name for p in store.iterdir()))
            signal_rank(1, signal.SIGTERM)

    stopped = (
        r"^asked to stop \(SIGTERM\) after step (2\d) of 60: the checkpoint is in .*, and the same command goes on"
    )
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
    assert len(folders[0]) == 1
    assert folders[0][0] in {f"step-{n}" for n in range(5, 20)}
    rest = run(plan, steps=STEPS, seed=1, data=data, checkpoint=store, checkpoint_every=1000)
    assert rest is not None
    assert 20 <= rest.first_step < 30
    assert rest.losses == pytest.approx(quiet.losses[rest.first_step :], rel=1e-5)


def test_a_run_that_is_stopped_before_its_first_step(tmp_path: Path) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)

    def disturb(line: str) -> None:
        if line.startswith("starting"):
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(StoppedError, match=r"^asked to stop \(SIGTERM\) before the first step$"):
        run(plan, steps=STEPS, checkpoint=tmp_path / "store", say=disturb)
