"""Plans that are hard in one way each give the result of one process."""

from __future__ import annotations

from typing import Any

import pytest
from plan_cases import captured_model, make_plan, staged, train_job
from worker_pool import WorkerPool

from drlpp.runtime import RunReport, reduction

Devices = list[tuple[int, ...]]

CASES: dict[str, tuple[str, dict[str, int], Devices, dict[str, Any]]] = {
    "chain": ("chain", {"linear_1": 1, "linear_2": 2, "linear_3": 3}, [(0,), (1,), (2,), (3,)], {}),
    "V placement": ("chain", {"linear_1": 1, "linear_2": 2, "linear_3": 3}, [(0,), (1,), (1,), (0,)], {}),
    "neighbours on one device": ("chain", {"linear_1": 1, "linear_2": 2, "linear_3": 3}, [(0,), (0,), (1,), (1,)], {}),
    "skip with fan-out": ("skip_fan_out", {"linear_1": 1, "linear_2": 2, "cat": 3}, [(0,), (1,), (2,), (3,)], {}),
    "skip with consumers on one device": (
        "skip_fan_out",
        {"linear_1": 1, "linear_2": 2, "cat": 3},
        [(0,), (1,), (1,), (1,)],
        {},
    ),
    "parallel branches": (
        "branches",
        {"conv2d_1": 1, "max_pool2d": 2, "conv2d_3": 3, "add": 4},
        [(0,), (1,), (2,), (3,), (0,)],
        {},
    ),
    "two source stages": (
        "two_sources",
        {"linear": 0, "embedding": 1, "linear_2": 2, "mul": 3},
        [(0,), (1,), (2,), (3,)],
        {},
    ),
    "tied embedding": ("tied", {"layer_norm": 1, "linear_1": 2}, [(0,), (1,), (2,)], {}),
    "tied embedding on one device": ("tied", {"layer_norm": 1, "linear_1": 2}, [(0,), (1,), (0,)], {}),
    "tied embedding, replicas": ("tied", {"layer_norm": 1, "linear_1": 2}, [(0, 3), (1,), (2, 3)], {}),
    "dropout": ("dropout_attention", {"layer_norm": 1, "matmul": 2, "linear_1": 3}, [(0,), (1,), (2,), (0,)], {}),
    "dropout, recomputed": (
        "dropout_attention",
        {"layer_norm": 1, "matmul": 2, "linear_1": 3},
        [(0,), (1,), (2,), (0,)],
        {"recompute": (0, 1, 2, 3)},
    ),
    "replicated stage": ("chain", {"linear_1": 1, "linear_3": 2}, [(0,), (1, 2, 3), (0,)], {}),
    "more replicas than micro-batches": ("chain", {"linear_1": 1}, [(0,), (1, 2, 3)], {"num_microbatches": 2}),
    "replicated batch norm": ("branches", {"conv2d_1": 1, "add": 2}, [(0, 1), (2, 3), (1,)], {}),
    "recomputed batch norm": (
        "branches",
        {"conv2d_1": 1, "max_pool2d": 2, "add": 3},
        [(0,), (1,), (2,), (0,)],
        {"recompute": (0, 1, 2), "split": 0.5},
    ),
    "data parallel": ("branches", {}, [(0, 1, 2, 3)], {}),
    "one device": ("u_shape", {"conv2d_2": 1}, [(2,), (2,)], {}),
    "int and bool edges": (
        "int_and_bool_edges",
        {"linear_1": 1, "gt": 1, "linear_2": 2, "gather": 3},
        [(0,), (1,), (2,), (3,)],
        {},
    ),
    "tuples": ("recurrent", {"lstm": 1, "lstm_1": 2, "matmul": 3}, [(0,), (1,), (2,), (3,)], {}),
    "split backward": (
        "u_shape",
        {"conv2d_1": 1, "conv2d_2": 2, "cat": 3, "cat_1": 4},
        [(0,), (1,), (2,), (1,), (0,)],
        {"split": 1.0},
    ),
    "split backward, recomputed, replicated": (
        "u_shape",
        {"conv2d_1": 1, "conv2d_2": 2, "cat": 3},
        [(0,), (1, 2), (2,), (3, 0)],
        {"split": 1.0, "recompute": (1, 3)},
    ),
    "no gradient in a branch": (
        "no_grad_teacher",
        {"linear_1": 1, "linear_2": 2, "linear_4": 3},
        [(0,), (1,), (2,), (1,)],
        {},
    ),
    "adamw": ("skip_fan_out", {"linear_1": 1, "cat": 2}, [(0,), (1, 2), (3,)], {"optimizer": "adamw"}),
}


def run_case(pool: WorkerPool, case: str, **more: Any) -> RunReport:
    model, marks, devices, settings = CASES[case]
    graph = captured_model(model).graph
    plan = make_plan(graph, staged(graph, marks), devices, **{"num_microbatches": 5, "seed": 1} | settings)
    report: RunReport = pool.run(train_job, model, plan, 2, *more.values())[0]
    return report


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
