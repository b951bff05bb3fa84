"""What ops hold and send, against the definitions, edge by edge."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from drlpp.cost.op_amounts import op_amounts
from random_problems import random_problem, with_frozen


@pytest.mark.parametrize("seed", range(20))
def test_values_are_what_one_op_sends_under_one_name_in_one_phase(seed):
    problem, _ = random_problem(seed)
    graph, ops = problem.graph, op_amounts(problem)
    consumers, gradient, seconds = defaultdict(set), defaultdict(bool), {}
    for e in graph.edges:
        key = graph.index[e.src], e.tensor, e.phase
        consumers[key].add(graph.index[e.dst])
        gradient[key] |= e.requires_grad
        seconds[key] = e.transfer_s or 0.0
    keys = sorted(consumers, key=lambda key: (key[0], key[1], key[2] == "forward"))
    assert ops.value_src.tolist() == [src for src, _, _ in keys]
    copies = [2.0 if gradient[key] else 1.0 for key in keys]
    amounts = [seconds[key] if ops.timed else graph.tensor_bytes[key[1]] for key in keys]
    assert ops.value_copies.tolist() == copies
    assert ops.value_amount.tolist() == [a * c for a, c in zip(amounts, copies, strict=True)]
    assert [set(ops.consumers(v).tolist()) for v in range(len(keys))] == [consumers[key] for key in keys]


@pytest.mark.parametrize("seed", range(10))
def test_each_op_touches_what_it_sends_and_then_what_it_receives(seed):
    problem, _ = random_problem(seed)
    ops = op_amounts(problem)
    for op in range(ops.num_ops):
        touched = ops.touch_value[ops.touch_ptr[op] : ops.touch_ptr[op + 1]].tolist()
        sent = np.flatnonzero(ops.value_src == op).tolist()
        received = [v for v in range(len(ops.value_src)) if op in ops.consumers(v)]
        assert touched == sent + received
        assert ops.produces[op] == len(sent)


@pytest.mark.parametrize("seed", range(10))
def test_arcs_and_bytes(seed):
    problem = with_frozen(random_problem(seed)[0])
    graph, ops = problem.graph, op_amounts(problem)
    for op in range(ops.num_ops):
        assert ops.before[ops.before_ptr[op] : ops.before_ptr[op + 1]].tolist() == list(graph.predecessors[op])
        assert ops.after[ops.after_ptr[op] : ops.after_ptr[op + 1]].tolist() == list(graph.successors[op])
    trained = sum(size for name, size in graph.param_bytes.items() if name not in graph.frozen)
    assert ops.param_bytes.sum() == pytest.approx(trained)
