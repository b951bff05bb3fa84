"""Random legal plans of all small models give the result of one process."""

from __future__ import annotations

import functools
import os
import time

import pytest

from drlpp.graph import OpGraph
from plan_cases import captured_model, random_plan, train_job
from small_models import ALL
from worker_pool import WorkerPool

PLANS = int(os.environ.get("DRLPP_FUZZ_PLANS", "30"))
TIME_LIMIT_S = float(os.environ.get("DRLPP_FUZZ_SECONDS", "40"))


@functools.cache
def graph_of(name: str) -> OpGraph:
    return captured_model(name).graph


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_plans(pool: WorkerPool) -> None:
    deadline = time.monotonic() + TIME_LIMIT_S
    names = sorted(ALL)
    done = 0
    for seed in range(PLANS):
        if time.monotonic() > deadline:
            break
        name = names[seed % len(names)]
        plan = random_plan(graph_of(name), seed, replicas=0.4, zero1=0.5, shares=0.5)
        verification = pool.run(train_job, name, plan, 1 + seed % 2, seed % 3 == 0)[0].verification
        assert verification.passed, f"{name}, seed {seed}: {verification.describe()}"
        done += 1
    assert done >= len(names)
