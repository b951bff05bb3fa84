"""Plans that are hard in one way each give the result of one process."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from drlpp.errors import PlanError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.runtime.programs import refuse_blocks
from drlpp.runtime.transfers import reduction
from executor_cases import CASES, run_case
from plan_cases import make_plan
from worker_pool import WorkerPool

Devices = list[tuple[int, ...]]


@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(pool: WorkerPool, case: str) -> None:
    verification = run_case(pool, case).verification
    assert verification is not None
    assert verification.passed, verification.describe()


@pytest.mark.parametrize("case", ["skip with fan-out", "V placement", "tied embedding, replicas", "split backward"])
def test_planned_order_of_messages_alone(pool: WorkerPool, case: str) -> None:
    """Both directions of a pair of ranks in one queue, as NCCL needs it."""
    verification = run_case(pool, case, one_queue_per_pair=True).verification
    assert verification is not None
    assert verification.passed, verification.describe()


def test_blocks_that_compute_again_are_refused() -> None:
    plan = make_plan(chain_graph(2), np.array([0, 1]), [(0,), (1,)], num_microbatches=1, recompute=(1,))
    blocks = dataclasses.replace(
        plan, stages=tuple(dataclasses.replace(s, recompute=2 * s.recompute) for s in plan.stages)
    )
    refuse_blocks(plan)
    with pytest.raises(PlanError, match="stage 1 has recompute 'block', which `drlpp run` cannot do yet"):
        refuse_blocks(blocks)


def test_report(pool: WorkerPool) -> None:
    report = run_case(pool, "parallel branches")
    assert len(report.losses) == 2
    assert len(report.iteration_times_s) == 1
    kinds = [e.kind for e in report.trace.events]
    assert kinds.count("F") == kinds.count("B") == 5 * 5
    assert kinds.count("optimizer") == 4
    transfers = [e for e in report.trace.events if e.kind == "send"]
    assert len(transfers) == 6 * 2 * 5  # edges between devices, both ways, each micro-batch
    assert all(0.0 < e.start_s < e.end_s < report.trace.iteration_time_s and e.bytes > 0 for e in transfers)
    for sent in transfers:
        made = [
            e.end_s
            for e in report.trace.events
            if (e.stage, e.microbatch, e.device) == (sent.stage, sent.microbatch, sent.device) and e.kind in "FB"
        ]
        assert min(made) <= sent.start_s
    assert report.trace.iteration_time_s == pytest.approx(report.iteration_time_s, rel=0.5)
    assert report.to_dict()["verification"]["passed"] is True


def test_replicas_sum_beside_the_backward_pass(pool: WorkerPool) -> None:
    """The sum of the last layers' gradients starts before the backward pass has reached the first layers."""
    pool.run(small_buckets, 64)
    try:
        trace = run_case(pool, "data parallel").trace
    finally:
        pool.run(small_buckets, reduction.BUCKET_BYTES)
    for device in range(4):
        mine = [e for e in trace.events if e.device == device]
        last_backward = max((e for e in mine if e.kind == "B"), key=lambda e: e.end_s)
        sums = [e for e in mine if e.kind == "all-reduce"]
        assert len(sums) > 1
        assert min(e.start_s for e in sums) < last_backward.end_s
        assert max(e.end_s for e in sums) <= min(e.start_s for e in mine if e.kind == "optimizer")


def small_buckets(num_bytes: int) -> None:
    """On a rank of the pool."""
    reduction.BUCKET_BYTES = num_bytes
