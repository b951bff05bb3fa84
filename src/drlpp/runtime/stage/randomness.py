"""Random numbers that do not depend on the partition.

Every op that draws random numbers (dropout and the like) is seeded on its own, from (seed, step, micro-batch, name of
the op). So it draws the same numbers whichever rank, stage or order it runs in, in a recomputed forward pass too, and
in the single-process run that a pipeline is compared with. The generator's state is put back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from drlpp.capture.user_call import UserCall
from drlpp.seeds import derived_seed
from drlpp.torch_private import OpOverload


class RandomContext:
    """What the random ops of a rank are seeded by, besides their names.

    Attributes:
        seed: of the run.
        step: optimizer steps done.
        microbatch: the one that is computed now.
        drawing: name of the op that draws, or drew last.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.microbatch = 0
        self.drawing = ""

    def seed_of(self, op: str) -> int:
        """What an op is seeded with, in this step and micro-batch."""
        return derived_seed(self.seed, self.step, self.microbatch, op)


class SeededOp(nn.Module):
    """Calls an operator with the generators of the devices seeded for this op, step and micro-batch.

    Args:
        target: the operator.
        name: of the op in the source.
        context: shared by all ops of the rank.
    """

    def __init__(self, target: Callable[..., Any], name: str, context: RandomContext) -> None:
        super().__init__()
        self.target = target
        self.op_name = name
        self.context = context

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the operator."""
        self.context.drawing = self.op_name
        seed = self.context.seed_of(self.op_name)
        generators = (torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ()))
        before = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            return self.target(*args, **kwargs)
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


def is_random(node: torch.fx.Node) -> bool:
    """Whether an op of a captured graph draws random numbers. Code of the user may."""
    if isinstance(node.target, UserCall):
        return True
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded in node.target.tags
