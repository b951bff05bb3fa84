"""Plans of small models that between them use everything the executor can do."""

from __future__ import annotations

from typing import Any

from drlpp.runtime import RunReport
from plan_cases import captured_model, make_plan, staged, train_job
from worker_pool import WorkerPool

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
    "blocks computed again": ("blocks", {"linear_3": 1}, [(0,), (1, 2)], {"blocks": (0, 1)}),
    "blocks computed again, split backward": (
        "blocks",
        {"linear_2": 1, "linear_5": 2},
        [(0,), (1,), (0,)],
        {"blocks": (0, 1, 2), "split": 0.5},
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
    "unequal shares": (
        "u_shape",
        {"conv2d_1": 1, "conv2d_2": 2, "cat": 3},
        [(0, 1), (1, 2, 3), (2,), (3, 0)],
        {"split": 0.5, "recompute": (1,), "num_microbatches": 7, "shares": [(2, 1), (1, 3, 1), (), (1, 4)]},
    ),
    "unequal shares of batch norm": (
        "branches",
        {"conv2d_1": 1, "add": 2},
        [(0, 1), (2, 3), (1,)],
        {"num_microbatches": 6, "shares": [(3, 1), (1, 2), ()]},
    ),
    "unequal shares of a tied embedding": (
        "tied",
        {"layer_norm": 1, "linear_1": 2},
        [(0, 3), (1,), (2, 3)],
        {"shares": [(1, 3), (), (2, 1)]},
    ),
    "a share that a small step does not reach": (
        "chain",
        {"linear_1": 1},
        [(0,), (1, 2, 3)],
        {"num_microbatches": 2, "shares": [(), (4, 1, 4)]},
    ),
    "adamw": ("skip_fan_out", {"linear_1": 1, "cat": 2}, [(0,), (1, 2), (3,)], {"optimizer": "adamw"}),
}


def run_case(pool: WorkerPool, case: str, **more: Any) -> RunReport:
    model, marks, devices, settings = CASES[case]
    graph = captured_model(model).graph
    plan = make_plan(graph, staged(graph, marks), devices, **{"num_microbatches": 5, "seed": 1} | settings)
    report: RunReport = pool.run(train_job, model, plan, 2, *more.values())[0]
    return report
