"""Times of ops inside a whole step of a captured model on a CPU: what they take between their neighbours.

An op that is timed alone finds its operands in the cache and leaves the cache to nobody. Here the step runs as it is,
and every op takes the time from its beginning to the beginning of the next one. In the backward pass an op begins where
autograd comes to the node that made its value; sums of gradients belong to the op before them.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx

from drlpp.capture.captured import CapturedModel
from drlpp.capture.interpret import run_stages
from drlpp.torch_private import tree_leaves


def times_in_step(captured: CapturedModel, repeats: int) -> dict[str, tuple[float, float]]:
    """Name of every op -> seconds of a processor in the forward and in the backward pass.

    Gradients are added to the parameters of `captured.module`.

    Args:
        captured: a model with values.
        repeats: steps of which the median is taken for each op; one more warms up.
    """
    steps = [_Step(captured).run() for _ in range(repeats + 1)][1:]
    return {
        op.name: (
            float(np.median([step[op.name, False] for step in steps])),
            float(np.median([step[op.name, True] for step in steps])),
        )
        for op in captured.graph.ops
    }


class _Step:
    """One step, and when each op began."""

    def __init__(self, captured: CapturedModel) -> None:
        self._captured = captured
        self._ends: list[tuple[str, float]] = []
        self._begins: list[tuple[str, float]] = []
        self._known: set[torch.autograd.graph.Node] = set()
        self._turned_s = 0.0

    def run(self) -> dict[tuple[str, bool], float]:
        """(op, whether it is the backward pass) -> seconds."""
        began_s = time.process_time()
        run_stages(self._captured, [0] * self._captured.graph.num_ops, watch=self._after, between=self._turn)
        end_s = time.process_time()
        self._known.clear()  # their hooks know this step: nothing is to keep them
        out: dict[tuple[str, bool], float] = defaultdict(float)
        for (_, before_s), (name, at_s) in itertools.pairwise([("", began_s), *self._ends]):
            out[name, False] += at_s - before_s
        marks = [*self._begins, ("", end_s)]
        for i, ((name, at_s), (_, next_s)) in enumerate(itertools.pairwise(marks)):
            out[name, True] += next_s - (at_s if i else self._turned_s)
        return out

    def _after(self, node: fx.Node, value: Any) -> None:
        """A node was computed."""
        name = self._captured.op_of_node[node.name]
        for made_by in _makers(value):
            if made_by not in self._known:
                self._known.add(made_by)
                made_by.register_prehook(lambda _: self._begins.append((name, time.process_time())))
        self._ends.append((name, time.process_time()))

    def _turn(self) -> None:
        self._turned_s = time.process_time()


def _makers(value: Any) -> Iterator[torch.autograd.graph.Node]:
    """The nodes of autograd that made the tensors of a value."""
    for tensor in tree_leaves(value):
        if isinstance(tensor, torch.Tensor) and tensor.grad_fn is not None:
            yield tensor.grad_fn
