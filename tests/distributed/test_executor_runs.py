"""Legal plans of small models give the result of one process."""

from __future__ import annotations

import pytest
from plan_cases import captured_model, random_plan, train_job
from small_models import ALL
from worker_pool import WorkerPool


@pytest.mark.parametrize("name", list(ALL))
def test_random_plans(pool: WorkerPool, name: str) -> None:
    graph = captured_model(name).graph
    for seed in range(3):
        plan = random_plan(graph, seed)
        for report in pool.run(train_job, name, plan, 2):
            assert report.verification.ok, report.verification
