"""Repeated blocks of a stage that run their forward pass again in the backward pass (``recompute: "block"``).

The forward pass of a block records the graph of autograd as always, but what its operators save is not kept: a mark
stands for it. The first mark that the backward pass meets runs the block again, on what entered it, and fills the marks
that are still there. A value lives as long as its mark, and so as long as the operator that saved it: through B one
block's values exist at a time, and I keeps them for W. Source: Chen et al., "Training Deep Nets with Sublinear Memory
Cost" (2016); the marks are those of PyTorch's checkpoints that are not reentrant.

A block is the ops of one repeated module that follow each other in the captured order, where ops between them that need
nothing of the block go before it. If other ops stay between them, they are several blocks.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import saved_tensors_hooks

from drlpp.capture.changed_state import memory_of, written_values
from drlpp.errors import ExecutionError
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.torch_private import OpOverload


def parts_of_stage(
    nodes: Sequence[fx.Node], block_of: Mapping[str, str]
) -> Iterator[tuple[Sequence[fx.Node], frozenset[fx.Node] | None]]:
    """Parts of a stage: nodes of one block that follow each other, or nodes that run once, in an order that can run.

    Where a block reads a part of a tensor that changes in or after it, what was there before can't be kept alone: the
    block runs once.

    Args:
        nodes: of the stage, in order.
        block_of: name of a node -> the path of its block; nodes that are absent run once.

    Yields:
        The nodes, and which of the values that they read change in or after them (the block must keep copies); None
        for nodes that run once.
    """
    last_write = {memory_of(value): k for k, node in enumerate(nodes) for value in written_values(node)}
    place = {node: k for k, node in enumerate(nodes)}
    for block, part in _gathered(nodes, block_of, last_write):
        inside, start = set(part), min(place[n] for n in part)
        entering = {p for n in part for p in n.all_input_nodes if p not in inside}
        changing = frozenset(p for p in entering if last_write.get(memory_of(p), -1) >= start)
        again = bool(block) and all(p.op in ("get_attr", "placeholder") for p in changing)
        yield part, changing if again else None


def _gathered(
    nodes: Sequence[fx.Node], block_of: Mapping[str, str], written: Collection[fx.Node]
) -> Sequence[tuple[str, list[fx.Node]]]:
    """Nodes by block in an order in which they can run; `written` is the memory that some change in place."""
    parts: list[tuple[str, list[fx.Node]]] = []
    for block, members in itertools.groupby(nodes, key=lambda n: block_of.get(n.name, "")):
        part = list(members)
        if len(parts) > 1 and block and parts[-2][0] == block and _can_go_before(*parts[-1], parts[-2][1], written):
            between = parts.pop()
            parts.insert(-1, between)
            parts[-1][1].extend(part)
        else:
            parts.append((block, part))
    return parts


def _can_go_before(
    block: str, nodes: Sequence[fx.Node], others: Sequence[fx.Node], written: Collection[fx.Node]
) -> bool:
    """Whether nodes outside of blocks, which follow others, need nothing of them and see no change in place."""
    made = set(others)
    read = {p for n in nodes for p in n.all_input_nodes}
    pure = all(isinstance(n.target, OpOverload) or n.target is operator.getitem for n in nodes)
    return not block and pure and not made & read and all(memory_of(x) not in written for x in (*nodes, *read))


class BlockAgain(nn.Module):
    """A block that keeps only what enters it.

    Args:
        block: takes the values that enter it, parameters and buffers among them; draws random numbers by its context.
        name: of its module, for errors.
        changing: positions of values that are changed in it or after it; copies are kept.
        context: of its random ops.
    """

    def __init__(self, block: fx.GraphModule, name: str, changing: frozenset[int], context: RandomContext) -> None:
        super().__init__()
        self.block = block
        self.path = name
        self.changing = changing
        self.context = context

    def forward(self, *entering: Any) -> Any:
        """Runs the block."""
        if not torch.is_grad_enabled():
            return self.block(*entering)
        again = _Again(self, [_kept(x, copied=i in self.changing) for i, x in enumerate(entering)])
        with saved_tensors_hooks(again.mark, _value):
            return self.block(*entering)


class _Mark:
    """Stands for what an operator saved, and holds it once the block has run again."""

    def __init__(self, again: _Again) -> None:
        self.again = again
        self.value: torch.Tensor | None = None


class _Again:
    """One pass of a block: what entered it, and the marks of what its operators saved."""

    def __init__(self, block: BlockAgain, entering: Sequence[Any]) -> None:
        self._block = block
        self._entering = entering
        self._microbatch = block.context.microbatch
        self._marks: list[weakref.ref[_Mark]] = []

    def mark(self, _saved: torch.Tensor) -> _Mark:
        mark = _Mark(self)
        self._marks.append(weakref.ref(mark))
        return mark

    def run(self) -> None:
        """Runs the block again, and fills the marks."""
        marks, block = iter(self._marks), self._block
        block.context.microbatch = self._microbatch
        left = len(self._marks)

        def fill(saved: torch.Tensor) -> None:
            nonlocal left
            left -= 1
            reference = next(marks, None)
            if reference is not None and (mark := reference()) is not None:
                mark.value = saved.detach()

        entering = [_fresh(x, copied=i in block.changing) for i, x in enumerate(self._entering)]
        with torch.enable_grad(), saved_tensors_hooks(fill, _value):
            block.block(*entering)
        if left:
            raise ExecutionError(
                f"block {block.path!r} saved {len(self._marks)} tensors in its forward pass and "
                f"{len(self._marks) - left} when it ran again: its ops must do the same each time, or give its stage "
                "recompute false"
            )


def _value(mark: _Mark) -> torch.Tensor:
    if mark.value is None:
        mark.again.run()
    if mark.value is None:  # `run` fills every mark that is alive
        raise ExecutionError("a block that ran again did not make what its backward pass needs")
    return mark.value


def _kept(value: Any, *, copied: bool) -> Any:
    """What is kept of a value that enters a block: without its history."""
    if isinstance(value, (tuple, list)):
        return type(value)([_kept(x, copied=copied) for x in value])
    if not isinstance(value, torch.Tensor):
        return value
    if copied:
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value if value.is_leaf else value.detach().requires_grad_(value.requires_grad)


def _fresh(value: Any, *, copied: bool) -> Any:
    return value.clone() if copied and isinstance(value, torch.Tensor) else value
