"""Plans that are hard in one way each give the result of one process."""

from __future__ import annotations

import pytest

from drlpp.errors import PlanError
from drlpp.runtime.programs import blocks_again
from drlpp.runtime.transfers import reduction
from executor_cases import CASES, run_case
from plan_cases import captured_model, make_plan, staged
from worker_pool import WorkerPool

Devices = list[tuple[int, ...]]


@pytest.mark.slow
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


def test_blocks_computed_again_in_bf16(pool: WorkerPool) -> None:
    more = {"one_queue_per_pair": False, "precision": "bf16"}
    verification = run_case(pool, "blocks computed again, split backward", **more).verification
    assert verification is not None
    assert verification.passed, verification.describe()


def test_blocks_of_a_group_that_compute_again_are_refused() -> None:
    graph = captured_model("chain").graph
    labels = staged(graph, {"linear_1": 1})
    assert blocks_again(make_plan(graph, labels, [(0,), (1,)], num_microbatches=1, blocks=(1,))) == {}
    plan = make_plan(graph, labels, [[(0, 1)], [(2, 3)]], num_microbatches=1, blocks=(1,))
    with pytest.raises(PlanError, match="stage 1 has recompute 'block' and tensor 2, which `drlpp run` cannot do"):
        blocks_again(plan)


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
