"""The best way for a group of devices to share the ops of a graph.

The choice minimises the seconds of a micro-batch in one stage: ops, collectives inside the group, and sums of partial
gradients (a share of them, since they are due once per step). What a member holds has a price too, since a sequence can
be cut without saving a byte of parameters: all of the graph's parameters and kept tensors are worth `MEMORY_WORTH` of
the graph's time. A choice that takes longer than the whole graph on one device is never taken.

Left out: two axes of one op at a time, collectives that overlap with ops, and random operators, which every member
computes whole.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from drlpp.cluster import DeviceType, Link
from drlpp.cost.collectives import ring_s
from drlpp.cost.op_times import device_times, kernels_and_host, roofline_seconds
from drlpp.cost.sharding.members import (
    PARTIAL,
    Operands,
    Placement,
    inner_s,
    member_op,
    move_s,
)
from drlpp.cost.sharding.program import ParamUse, Program, SavedUse, TensorUse, moves, solve
from drlpp.cost.sharding.sharded import Move, ShardedGraph
from drlpp.cost.sharding.uses import learns, uses_of
from drlpp.errors import InputError
from drlpp.graph import Op, OpGraph, OpTimes, Split

MEMORY_WORTH = 1.0
"""What all bytes of a graph are worth, in parts of its time: half of the bytes are worth half of the time."""
PARAM_BYTES = 4.0
"""Bytes held per byte of a parameter: itself, its gradient and two states."""

_Use = TypeVar("_Use", TensorUse, ParamUse, SavedUse)


def shard(
    graph: OpGraph, device_type: DeviceType, link: Link, degree: int, *, sequence: bool, num_microbatches: int = 1
) -> ShardedGraph:
    """Chooses how `degree` devices of one type share the ops of a graph.

    Args:
        graph: with `Op.splits`, as captured models and generated transformers have them.
        device_type: of one member.
        link: between the members.
        degree: number of members; 1 leaves all whole.
        sequence: activations between the divided ops may be cut as well, along the sequence or the features.
        num_microbatches: of a step.

    Raises:
        InputError: `degree` is below 1, or above it and the graph says of no op how it may be divided.
    """
    if degree < 1:
        raise InputError(f"a group has {degree} devices: it must have at least 1")
    if degree > 1 and not any(op.splits for op in graph.ops):
        raise InputError(
            f"graph {graph.name!r} says of no op how it may be divided, so a group of {degree} devices cannot share "
            "its ops: capture the model, or leave tensor parallelism out"
        )
    sharing = Sharing(graph, device_type, link, degree, sequence=sequence, num_microbatches=num_microbatches)
    limit = float(device_times(graph, device_type).sum())
    attempts = ((MEMORY_WORTH, False), (0.0, False), (0.0, True))
    for worth, with_host in attempts if degree > 1 else ():
        options = sharing.best(worth, with_host=with_host)
        found = sharing.sharded(options) if options is not None else None
        if found is not None and sharing.total_s(found) <= limit:
            return found
    return sharing.sharded([0] * graph.num_ops)


def repriced(
    shared: ShardedGraph, graph: OpGraph, device_type: DeviceType, link: Link, *, num_microbatches: int
) -> ShardedGraph:
    """The same choice on other devices.

    Args:
        shared: the choice.
        graph: the whole one that it was made for.
        device_type, link, num_microbatches: as in `shard`.
    """
    degree, sequence = shared.degree, shared.sequence
    sharing = Sharing(graph, device_type, link, degree, sequence=sequence, num_microbatches=num_microbatches)
    return sharing.sharded(sharing.options(shared.choice))


class Sharing:
    """One graph, group and degree: its program, and the result of a choice of options."""

    def __init__(
        self,
        graph: OpGraph,
        device_type: DeviceType,
        link: Link,
        degree: int,
        *,
        sequence: bool,
        num_microbatches: int,
    ) -> None:
        self._graph, self._device, self._link, self._degree = graph, device_type, link, degree
        self._num_microbatches = num_microbatches
        self._uses = uses_of(graph, degree, sequence=sequence)
        measured = any(op.times for op in graph.ops)  # whose shares depend on the device
        self._members: dict[tuple[int, int], Op] = {} if measured else self._uses.members
        self._graphs: dict[tuple[int, ...], OpGraph] = {} if measured else self._uses.graphs

    def options(self, choice: Sequence[int]) -> list[int]:
        """Per op the option whose split has the index that `ShardedGraph.choice` says."""
        return [1 + self._uses.numbers[i].index(k) if k >= 0 else 0 for i, k in enumerate(choice)]

    def _move_s(self, source: Placement, target: Placement, num_bytes: float) -> float:
        return move_s(source, target, num_bytes, self._link, self._degree)

    def _param_sum_s(self, num_bytes: float) -> float:
        """Seconds per micro-batch; gradients are summed together, so their bytes alone count."""
        return ring_s(self._degree, num_bytes, Link(bandwidth=self._link.bandwidth)) / self._num_microbatches

    def _member(self, i: int, option: int) -> Op:
        """The op of a member, or one with the same work: the first of its class."""
        op = self._graph.ops[i]
        if not option:
            return op
        key = (self._uses.classes[i], option)
        if key not in self._members:
            self._members[key] = self._shared(op, self._uses.splits(i)[option - 1], self._uses.sizes[i])
        return self._members[key]

    def _shared(self, op: Op, split: Split, sizes: Operands) -> Op:
        """What a member computes of an op, with its share of measured times."""
        member = member_op(op, split, sizes, self._degree)
        if (measured := split.measured(self._degree)) is not None:
            return dataclasses.replace(member, times=dict.fromkeys(op.times, OpTimes(*measured[1:])))
        if not op.times:
            return member
        whole, own = roofline_seconds([op, member], self._device, self._graph.compute_dtype)
        share = np.divide(own, whole, out=np.ones(3), where=whole > 0).tolist()
        times = {
            kind: OpTimes(t.forward_s * share[0], t.input_grad_s * share[1], t.weight_grad_s * share[2])
            for kind, t in op.times.items()
        }
        return dataclasses.replace(member, times=times)

    def best(self, memory_worth: float, *, with_host: bool) -> list[int] | None:
        """Per op the option: 0 for whole, else 1 + the position among the splits that may be taken.

        Args:
            memory_worth: what all bytes of the graph are worth, in parts of its time.
            with_host: no op takes less than its host needs to ask for its kernels.
        """
        chosen = solve(self.program(memory_worth, with_host=with_host))
        return None if chosen is None else [chosen[k] for k in self._uses.classes]

    def program(self, memory_worth: float, *, with_host: bool) -> Program:
        """The program that `best` solves, over classes of equal ops."""
        classes = self._uses.classes
        count, first = Counter(classes), {k: i for i, k in reversed(list(enumerate(classes)))}
        examples = [first[k] for k in range(len(count))]
        seconds = self._option_seconds(examples, with_host=with_host)
        held = PARAM_BYTES * sum(self._graph.param_bytes.values())
        held += sum(self._graph.tensor_bytes[t] for t in {t for op in self._graph.ops for t in op.saved})
        time_s = sum(count[k] * table[0] for k, table in enumerate(seconds))
        byte_s = memory_worth * time_s / held if held else 0.0
        return Program(
            seconds=[[count[k] * s for s in table] for k, table in enumerate(seconds)],
            tensors=Counter(_by_class(use, classes) for use in self._uses.tensors.values()),
            params=Counter(_by_class(use, classes) for use in self._uses.params),
            saved=Counter(_by_class(use, classes) for use in self._uses.saved),
            move_s=self._move_s,
            param_sum_s=self._param_sum_s,
            param_byte_s=byte_s * PARAM_BYTES,
            saved_byte_s=byte_s,
            degree=self._degree,
        )

    def _option_seconds(self, ops: Sequence[int], *, with_host: bool) -> list[list[float]]:
        """Per op, seconds of a micro-batch by option, with the sums inside the op."""
        variants = [self._member(i, o) for i in ops for o in range(len(self._uses.numbers[i]) + 1)]
        seconds, host = kernels_and_host(variants, self._graph, self._device)
        if with_host:
            seconds = np.maximum(seconds, host)
        totals = iter(seconds.sum(axis=1).tolist())
        out = []
        for i in ops:
            table = [next(totals) for _ in range(len(self._uses.numbers[i]) + 1)]
            inner = [inner_s(s, self._uses.sizes[i], self._link, self._degree) for s in self._uses.splits(i)]
            out.append([a + b for a, b in zip(table, [0.0, *inner], strict=True)])
        return out

    def total_s(self, found: ShardedGraph) -> float:
        """Seconds of a micro-batch of a member, one op after the other."""
        ops = float(device_times(found.graph, self._device).sum())
        step_s = float(found.step_s.sum()) / self._num_microbatches
        return ops + float((found.forward_s + found.input_grad_s).sum()) + step_s

    def sharded(self, options: Sequence[int]) -> ShardedGraph:
        """The result of a choice of options."""
        graph = self._graph
        forward_s, input_grad_s, step_s = np.zeros((3, graph.num_ops))
        found: list[Move] = []
        for tensor, use in self._uses.tensors.items():
            for forward, (source, target), reader in moves(use, options):
                seconds = self._move_s(source, target, use.bytes)
                if seconds:
                    i = use.maker if forward else reader
                    (forward_s if forward else input_grad_s)[i] += seconds
                    phase = "forward" if forward else "backward"
                    found.append(Move(tensor, phase, source, target, i, use.bytes, seconds))  # type: ignore[arg-type]
        for i, o in enumerate(options):
            if o:
                forward_s[i] += inner_s(self._uses.splits(i)[o - 1], self._uses.sizes[i], self._link, self._degree)
        held, partial = self._held(options)
        for param, i in partial.items():
            step_s[i] += self._param_sum_s(graph.param_bytes[param]) * self._num_microbatches
        return ShardedGraph(
            degree=self._degree,
            sequence=self._uses.sequence,
            choice=tuple(self._uses.numbers[i][o - 1] if o else -1 for i, o in enumerate(options)),
            graph=self._member_graph(tuple(options), held),
            forward_s=forward_s,
            input_grad_s=input_grad_s,
            step_s=step_s,
            moves=tuple(found),
            partial_gradients=tuple(partial),
        )

    def _member_graph(self, options: tuple[int, ...], held: Mapping[str, float]) -> OpGraph:
        """What a member computes and holds."""
        if options not in self._graphs:
            sizes = self._tensor_bytes(options)
            self._graphs[options] = dataclasses.replace(
                self._graph,
                ops=tuple(self._final(i, o) for i, o in enumerate(options)),
                param_bytes=held,
                tensor_bytes=sizes,
                tensor_fixed_bytes={t: min(size, sizes[t]) for t, size in self._graph.tensor_fixed_bytes.items()},
            )
        return self._graphs[options]

    def _final(self, i: int, option: int) -> Op:
        """The op of a member."""
        op, member = self._graph.ops[i], self._member(i, option)
        if not op.splits:
            return op
        return dataclasses.replace(
            op,
            forward=member.forward,
            input_grad=member.input_grad,
            weight_grad=member.weight_grad,
            output_bytes=member.output_bytes,
            times=member.times,
            splits=(),
        )

    def _held(self, options: Sequence[int]) -> tuple[dict[str, float], dict[str, int]]:
        """Parameter -> bytes of a member; and those whose gradient is a partial sum -> their first reader."""
        held, partial = dict(self._graph.param_bytes), dict[str, int]()
        for i, o in enumerate(options):
            for param in self._graph.ops[i].params if o else ():
                if self._uses.splits(i)[o - 1].read(param):
                    held[param] = self._graph.param_bytes[param] / self._degree
                elif learns(self._graph, self._graph.ops[i], param):
                    partial.setdefault(param, i)
        return held, partial

    def _tensor_bytes(self, options: Sequence[int]) -> dict[str, float]:
        """Tensor -> bytes of a member: of all forms that some op keeps, else as it comes out."""
        kept: dict[str, set[bool]] = defaultdict(set)
        for i, o in enumerate(options):
            for tensor in self._graph.ops[i].saved:
                kept[tensor].add(bool(o) and tensor in self._uses.splits(i)[o - 1].keeps)
        sizes = dict(self._graph.tensor_bytes)
        for tensor, size in sizes.items():
            if tensor in kept:
                sizes[tensor] = sum(size / self._degree if is_part else size for is_part in kept[tensor])
            elif (use := self._uses.tensors.get(tensor)) and use.gives[options[use.maker]] not in (None, PARTIAL):
                sizes[tensor] = size / self._degree
        return sizes


def _by_class(use: _Use, classes: Sequence[int]) -> _Use:
    """A use with classes in the place of positions."""
    if isinstance(use, TensorUse):
        readers = tuple(dict.fromkeys((classes[i], forms) for i, forms in use.readers))
        return dataclasses.replace(use, maker=classes[use.maker], readers=readers)
    if isinstance(use, ParamUse):
        return dataclasses.replace(use, readers=tuple(dict.fromkeys((classes[i], f) for i, f in use.readers)))
    return dataclasses.replace(use, keepers=tuple(dict.fromkeys((classes[i], f) for i, f in use.keepers)))
