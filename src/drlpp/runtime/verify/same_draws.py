"""Has the user's module draw the random numbers that the stages of a pipeline draw.

The ops of a captured graph are seeded one by one (`drlpp.runtime.stage.randomness`). The graph and the module call the
same operators in the same order, so the n-th number that the module draws is that of the n-th op that draws.

A forward pass that is computed again (checkpointing) starts from the generator's state of the first time. This state
says which draw it is, since every draw leaves another one behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from drlpp.errors import ExecutionError
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.torch_private import TorchDispatchMode


def drawing_ops(run: Callable[[], object], context: RandomContext) -> tuple[str, ...]:
    """Names of the ops that draw while `run` runs the captured graph, one per draw."""
    recorder = _Recorder(context)
    with recorder:
        run()
    return tuple(recorder.names)


class _Recorder(TorchDispatchMode):
    def __init__(self, context: RandomContext) -> None:
        super().__init__()
        self.names: list[str] = []
        self._context = context

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _draws(func, kwargs):
            self.names.append(self._context.drawing)
        return func(*args, **(kwargs or {}))


class SameDraws(TorchDispatchMode):
    """Within it, random operators draw what the ops of a graph draw in the same micro-batch.

    Args:
        names: of the ops, one per draw (`drawing_ops`).
        context: step and micro-batch.
        device: that computes.
    """

    def __init__(self, names: Sequence[str], context: RandomContext, device: torch.device) -> None:
        super().__init__()
        self._names = names
        self._context = context
        on_gpu = device.type == "cuda"
        self._generator = torch.cuda.default_generators[device.index or 0] if on_gpu else torch.default_generator
        self._number_at: dict[bytes, int] = {}
        self._drawn = 0

    def __enter__(self) -> Any:
        self._number_at.clear()
        self._drawn = 0
        self._generator.manual_seed(self._context.seed_of(""))
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _draws(func, kwargs):
            state = self._generator.get_state().numpy().tobytes()
            number = self._number_at.setdefault(state, self._drawn)
            self._drawn = max(self._drawn, number + 1)
            if number >= len(self._names):
                raise ExecutionError(
                    f"the module draws random numbers {number + 1} times, its graph {len(self._names)} times: verify "
                    "it with dropout switched off"
                )
            if number == 0 or self._names[number - 1] != self._names[number]:
                self._generator.manual_seed(self._context.seed_of(self._names[number]))
        return func(*args, **(kwargs or {}))


def _draws(func: Any, kwargs: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags and (kwargs or {}).get("generator") is None
