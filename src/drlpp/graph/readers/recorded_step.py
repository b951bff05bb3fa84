"""The last training step of a trace: its forward calls, and what of the backward pass belongs to each.

A call of the backward pass belongs to the forward call whose autograd sequence number it carries. The accumulation of a
gradient belongs to the backward call before it, which is how the autograd engine orders them, and tells the op's
parameters. Hooks that run after an accumulation are no work of the model, and nor is what checkpointing computes again:
whether a stage does so is the plan's choice.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence

from drlpp.errors import GraphError
from drlpp.graph.flop_kinds import flop_of_kind
from drlpp.graph.readers.recorded import RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_flop import known_flop
from drlpp.graph.readers.recorded_wrappers import wraps

_CPP_FUNCTION = "torch::autograd::CppNode<"


class RecordedStep:
    """The last forward pass that a backward pass follows, on the thread that ran it.

    Attributes:
        calls: all calls of the trace, in order of their start.
        forward: positions of the outermost operator calls of the forward pass, those of wrappers included.
        backward: forward call -> the calls of the autograd engine that belong to it.
        grads: forward call -> the gradients of its parameters.
        children: per call, those nested directly in it.
        wrapping: per call, whether it is part of what wraps the model, or of what the backward pass computes again.
    """

    def __init__(self, calls: Sequence[RecordedCall], where: str) -> None:
        self.calls = calls
        self._where = where
        self._functions = {c.function for c in calls if c.is_engine}
        self.children: list[list[int]] = [[] for _ in calls]
        self.wrapping: list[bool] = []
        self._root: list[int] = []  # outermost engine call, optimizer step or operator; the call itself if none
        for i, call in enumerate(calls):
            above = call.parent
            self.wrapping.append(wraps(call.name) or (above >= 0 and (self.wrapping[above] or self._is_hook(i))))
            if above >= 0:
                self.children[above].append(i)
            self._root.append(self._root[above] if self._is_inside(call) else i)
        self._mark_recomputed()
        self._seconds = self._net_seconds()
        owner = self._owners()
        self.forward, self._first_backward = self._last_step(owner)
        self.backward: dict[int, list[int]] = defaultdict(list)
        self.grads: dict[int, list[RecordedTensor]] = defaultdict(list)
        self._assign(owner)

    @property
    def accumulates(self) -> bool:
        """The backward pass of the step adds gradients to those of parameters."""
        return any(self.grads.values())

    def is_op(self, i: int) -> bool:
        """A call is of an operator or of an autograd function that was written in Python."""
        call = self.calls[i]
        return call.is_operator or (call.sequence >= 0 and f"{call.name}Backward" in self._functions)

    def nested(self, i: int) -> Iterator[int]:
        """The calls nested in a call, at any depth, that are work of the model."""
        for c in self.children[i]:
            if not self.wrapping[c]:
                yield c
                yield from self.nested(c)

    def flop(self, i: int, outputs: tuple[RecordedTensor, ...] | None = None) -> float:
        """FLOP of a call, from the outermost calls of which they are known; else those of its kind."""
        call = self.calls[i]
        shapes = [t.shape for t in call.inputs], [t.shape for t in (call.outputs if outputs is None else outputs)]
        known = known_flop(call.name, *shapes)
        if known is not None:
            return known
        nested = sum(self.flop(c) for c in self.children[i] if not self.wrapping[c])
        return nested or (flop_of_kind(call.name, *shapes) or 0.0 if call.is_operator else 0.0)

    def moved(self, i: int) -> float:
        """Bytes that the outermost operators in a call read and write; views move nothing."""
        call = self.calls[i]
        if not call.is_operator:
            return sum(self.moved(c) for c in self.children[i] if not self.wrapping[c])
        read = {t.storage for t in call.inputs if t.storage >= 0}
        if read and not call.written and all(t.storage in read for t in call.outputs):
            return 0.0
        return sum(t.bytes for t in call.inputs) + sum(t.bytes for t in call.outputs)

    def seconds(self, indices: Sequence[int]) -> float:
        """Measured seconds of calls, without what wraps the model."""
        return sum(self._seconds[i] for i in indices)

    def outputs(self, i: int) -> tuple[RecordedTensor, ...]:
        """The outputs of a forward call; where they are not recorded, the gradient that comes back has their form."""
        if self.calls[i].outputs or not self.backward.get(i):
            return self.calls[i].outputs
        function = self.children[self.backward[i][0]]
        return self.calls[function[0]].inputs if function else ()

    def _is_hook(self, i: int) -> bool:
        """It runs after a gradient was accumulated, in the same call of the engine."""
        above = self.calls[self.calls[i].parent]
        return above.is_engine and above.name.endswith("AccumulateGrad") and not self.calls[i].accumulates

    def _is_inside(self, call: RecordedCall) -> bool:
        if call.parent < 0:
            return False
        above = self._root[call.parent]
        closed = self.calls[above].is_engine or self.calls[above].is_optimizer
        return closed or (self.is_op(above) and not call.is_engine)

    def _mark_recomputed(self) -> None:
        """Forward calls inside the backward pass record for autograd, and what that pass itself does does not.

        Not so with ``create_graph``, where all of the pass records.
        """
        again = [False] * len(self.calls)
        records_not: set[int] = set()  # engine calls with an operator that is not recorded
        for i, call in enumerate(self.calls):
            root = self._root[i]
            if root == i or not self.calls[root].is_engine:
                continue
            forward = call.is_operator or f"{call.name}Backward" in self._functions
            again[i] = again[call.parent] or (forward and call.sequence >= 0)
            if call.is_operator and not again[i]:
                records_not.add(root)
        for i, is_again in enumerate(again):
            if is_again and self._root[i] in records_not:
                self.wrapping[i] = True

    def _net_seconds(self) -> list[float]:
        left_out = [0.0] * len(self.calls)
        net = [0.0] * len(self.calls)
        for i in range(len(self.calls) - 1, -1, -1):
            call, own = self.calls[i], self.calls[i].seconds or 0.0
            net[i] = max(0.0, own - left_out[i])
            if call.parent >= 0:
                left_out[call.parent] += own if self.wrapping[i] else left_out[i]
        return net

    def _owners(self) -> dict[int, int]:
        """Engine call -> the forward call that it belongs to, by sequence numbers."""
        calls, root = self.calls, self._root
        forward: dict[int, list[tuple[int, int]]] = defaultdict(list)  # thread -> (sequence, root), in order
        sequence_of: dict[int, int] = {}
        for i, call in enumerate(calls):
            if call.sequence < 0:
                continue
            if calls[root[i]].is_engine:
                sequence_of.setdefault(root[i], call.sequence)
            elif self.is_op(root[i]):
                forward[call.thread].append((call.sequence, root[i]))
        if not forward or not sequence_of:
            what = "forward" if not forward else "backward"
            raise GraphError(
                f"{self._where}: no operator of a {what} pass with a sequence number: record forward and backward "
                "together, in eager mode, with gradients on"
            )
        wanted = set(sequence_of.values())
        self._thread = max(forward, key=lambda t: sum(s in wanted for s, _ in forward[t]))
        numbered = sorted(forward[self._thread], key=lambda pair: pair[0])  # stable: the last of a number owns it
        numbers = [s for s, _ in numbered]
        owner: dict[int, int] = {}
        for e, s in sequence_of.items():
            at = bisect.bisect_right(numbers, s) - 1
            found = numbered[at][1] if at >= 0 else -1
            if calls[e].function.startswith(_CPP_FUNCTION):
                until = numbered[at + 1][1] if at + 1 < len(numbered) else e
                found = max((i for i in self._unnumbered() if found < i < until), default=found)
            if 0 <= found < e:
                owner[e] = found
        if not owner:
            raise GraphError(f"{self._where}: no backward call belongs to a forward call: record both in one trace")
        return owner

    def _unnumbered(self) -> Iterator[int]:
        """Outermost operators without a sequence number: an autograd function written in C++ hides in some of them."""
        for i, call in enumerate(self.calls):
            if self._root[i] == i and call.sequence < 0 and call.is_operator and call.thread == self._thread:
                yield i

    def _last_step(self, owner: dict[int, int]) -> tuple[list[int], int]:
        """The forward calls of the last step, and the first call of its backward pass."""
        last = max(owner)
        start = max((f for f in owner.values() if f < last), default=0)  # a forward call of the last step
        first_backward = min(e for e in owner if e > start)
        before = max((e for e in owner if e < start), default=-1)
        forward = [
            i
            for i in range(before + 1, first_backward)
            if self._root[i] == i and self.is_op(i) and self.calls[i].thread == self._thread
        ]
        return forward, first_backward

    def _assign(self, owner: dict[int, int]) -> None:
        """Gives every engine call of the step, and the gradients that are accumulated in it, to a forward call."""
        inside = set(self.forward)
        current: dict[int, int] = {}  # thread of the engine -> the forward call that it is at
        for e in range(self._first_backward, len(self.calls)):
            call = self.calls[e]
            if self._root[e] != e or not call.is_engine:
                continue
            if owner.get(e, -1) in inside:
                current[call.thread] = owner[e]
            at = current.get(call.thread, -1)
            if at < 0:
                continue
            self.backward[at].append(e)
            self.grads[at] += self._accumulated(e, at)

    def _accumulated(self, e: int, forward: int) -> list[RecordedTensor]:
        """Gradients that are accumulated in an engine call, those of parameters.

        A checkpoint that runs a backward pass of its own also accumulates the gradients of its copied inputs.
        """
        grads = [t for c in self.nested(e) if self.calls[c].accumulates for t in self.calls[c].inputs[:1]]
        if grads and not self.calls[e].name.endswith("AccumulateGrad"):
            for copied in self.calls[forward].inputs:
                match = next((g for g in grads if (g.shape, g.dtype) == (copied.shape, copied.dtype)), None)
                if match is not None:
                    grads.remove(match)
        return grads
