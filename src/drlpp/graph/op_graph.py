"""The operator graph of a model: ops, the tensors that flow between them, and what each op costs.

The graph is the *forward* graph of one micro-batch; the backward pass is implied. An op stands for one or more
operators of the source (its `members`) that must stay together. The graph knows amounts (FLOP, bytes) and, where
somebody measured them, times; it does not know devices.

Left out: control flow that depends on data, and any dependence of the costs on the values of tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import GraphError
from drlpp.graph.csr import numbered, offsets
from drlpp.graph.splits import Split

REFERENCE = "reference"
"""Key of `Op.times` for times measured on the graph's reference device (see `OpGraph.measured_on`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """An amount of work on a micro-batch, of one kernel or of several that run one after another.

    Attributes:
        flop, bytes: floating-point operations, and bytes read plus written.
        fixed_flop, fixed_bytes: the part of each that does not grow with the number of samples, for example the bytes
            of weights that are read.
        kernels: number of kernels that a device is asked to run.
        outputs: elements of the results of products (of matrices, convolutions); 0 if there are none or it is not
            known. With `flop` it gives the length of the sums: ``flop / (2 outputs)``.
        streamed_bytes: the part of `bytes` that kernels move which compute no product.
        fixed_outputs, fixed_streamed_bytes: the parts of these that do not grow with the number of samples.
    """

    flop: float = 0.0
    bytes: float = 0.0
    fixed_flop: float = 0.0
    fixed_bytes: float = 0.0
    kernels: float = 1.0
    outputs: float = 0.0
    streamed_bytes: float = 0.0
    fixed_outputs: float = 0.0
    fixed_streamed_bytes: float = 0.0

    @classmethod
    def of(
        cls, flop: float, moved: float, kernels: float = 1.0, outputs: float = 0.0, streamed_bytes: float = 0.0
    ) -> Work:
        """A work by its `amounts`; what is fixed of them is not known."""
        return cls(flop, moved, kernels=kernels, outputs=outputs, streamed_bytes=streamed_bytes)

    @property
    def amounts(self) -> tuple[float, float, float, float, float]:
        """FLOP, bytes, kernels, outputs of products and streamed bytes."""
        return self.flop, self.bytes, self.kernels, self.outputs, self.streamed_bytes

    @property
    def fixed_amounts(self) -> tuple[float, float, float, float]:
        """The fixed parts of FLOP, bytes, outputs of products and streamed bytes."""
        return self.fixed_flop, self.fixed_bytes, self.fixed_outputs, self.fixed_streamed_bytes

    def with_fixed(self, flop: float = 0.0, moved: float = 0.0, outputs: float = 0.0, streamed: float = 0.0) -> Work:
        """The same work with these `fixed_amounts`."""
        return dataclasses.replace(
            self, fixed_flop=flop, fixed_bytes=moved, fixed_outputs=outputs, fixed_streamed_bytes=streamed
        )

    def __add__(self, other: Work) -> Work:
        return Work(*map(operator.add, _all_of(self), _all_of(other)))

    def __sub__(self, other: Work) -> Work:
        """What is left; nothing falls below 0."""
        return Work(*(max(0.0, a - b) for a, b in zip(_all_of(self), _all_of(other), strict=True)))

    def scaled(self, samples: int, before: int) -> Work:
        """The work on `samples` samples, where this is that on `before`."""
        return dataclasses.replace(
            self,
            flop=grown(self.flop, self.fixed_flop, samples, before),
            bytes=grown(self.bytes, self.fixed_bytes, samples, before),
            outputs=grown(self.outputs, self.fixed_outputs, samples, before),
            streamed_bytes=grown(self.streamed_bytes, self.fixed_streamed_bytes, samples, before),
        )


_all_of = operator.attrgetter(*(field.name for field in dataclasses.fields(Work)))
NO_WORK = Work(kernels=0.0)


def total_work(works: Iterable[Work]) -> Work:
    """The sum of amounts of work."""
    return sum(works, NO_WORK)


def grown(amount: float, fixed: float, samples: int, before: int) -> float:
    """An amount for `samples` samples, where `amount` is that for `before` and a part of it is fixed."""
    return fixed + (amount - fixed) * samples / before


@dataclasses.dataclass(frozen=True, slots=True)
class OpTimes:
    """Measured seconds of one op on one micro-batch: forward, input gradient, weight gradient."""

    forward_s: float
    input_grad_s: float
    weight_grad_s: float = 0.0

    def scaled(self, samples: int, before: int) -> OpTimes:
        """The times on `samples` samples, in proportion: one measurement does not tell which part is fixed."""
        parts = (self.forward_s, self.input_grad_s, self.weight_grad_s)
        return OpTimes(*(part * samples / before for part in parts))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """A vertex of the graph.

    Attributes:
        name: unique name in the graph.
        kind: what it computes, for example ``aten.conv2d`` or ``Linear``.
        module: dotted path of the module that it belongs to; empty if unknown.
        members: names in the source that this op stands for; a plan lists these.
        forward, input_grad, weight_grad: work per micro-batch of the three parts.
        params: names of the parameters it reads (sizes in `OpGraph.param_bytes`).
        buffers: names of the other tensors it reads that stay from step to step (sizes in `OpGraph.buffer_bytes`).
        saved: names of the tensors that it keeps for the backward pass (sizes in `OpGraph.tensor_bytes`).
        output_bytes: bytes of all its outputs per micro-batch.
        times: measured times by device type, or under `REFERENCE`; empty when only `Work` is known.
        kv_bytes_per_token: of attention, the bytes of keys and values of one token, which serving keeps.
        in_order: it changes state that needs all micro-batches in order on one device, such as a moving average that
            it reads; its stage has no replicas.
        splits: the ways to divide it among the members of a group of devices; without any, each member computes all of
            it.
    """

    name: str
    kind: str
    module: str = ""
    members: tuple[str, ...] = ()
    forward: Work = NO_WORK
    input_grad: Work = NO_WORK
    weight_grad: Work = NO_WORK
    params: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    output_bytes: float = 0.0
    times: Mapping[str, OpTimes] = dataclasses.field(default_factory=dict)
    kv_bytes_per_token: float = 0.0
    in_order: bool = False
    splits: tuple[Split, ...] = ()

    def scaled(self, samples: int, before: int) -> Op:
        """The op on `samples` samples, where this is that on `before`."""
        return dataclasses.replace(
            self,
            forward=self.forward.scaled(samples, before),
            input_grad=self.input_grad.scaled(samples, before),
            weight_grad=self.weight_grad.scaled(samples, before),
            output_bytes=self.output_bytes * samples / before,
            times={kind: times.scaled(samples, before) for kind, times in self.times.items()},
            splits=tuple(split.scaled(samples, before) for split in self.splits),
        )

    def __post_init__(self) -> None:
        if not self.members:
            object.__setattr__(self, "members", (self.name,))
        amounts = [self.output_bytes, self.kv_bytes_per_token]
        works = (self.forward, self.input_grad, self.weight_grad)
        amounts += [x for w in works for x in (*w.amounts, *w.fixed_amounts)]
        amounts += [x for t in self.times.values() for x in (t.forward_s, t.input_grad_s, t.weight_grad_s)]
        for amount in amounts:
            if not (math.isfinite(amount) and amount >= 0):
                raise GraphError(f"op {self.name!r} has a cost of {amount}: costs must be finite and not negative")
        for split in self.splits:
            for tensor in split.keeps:
                if tensor not in self.saved:
                    raise GraphError(
                        f"op {self.name!r}: a split along {split.axis!r} keeps a part of {tensor!r}, which the op does "
                        "not save"
                    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A tensor that op `src` produces and op `dst` consumes.

    Edges with the same `src`, `tensor` and `phase` carry the same value: it is sent once to each device.

    Attributes:
        requires_grad: a gradient of the same size flows back from `dst` to `src`.
        phase: ``forward`` (the rule), or ``backward`` in imported graphs that list their backward operators:
            the value flows from `src` to `dst` during the backward pass, so `dst` comes first in the graph.
        transfer_s: seconds that moving the tensor takes, for imported graphs that say so; else None and the
            cluster's links decide.
    """

    src: str
    dst: str
    tensor: str
    requires_grad: bool = True
    phase: Literal["forward", "backward"] = "forward"
    transfer_s: float | None = None

    @property
    def before(self) -> str:
        """The op of the two that comes first in the forward order."""
        return self.src if self.phase == "forward" else self.dst

    @property
    def after(self) -> str:
        """The op of the two that comes second in the forward order."""
        return self.dst if self.phase == "forward" else self.src


BatchAxis = Literal["unknown", "linear", "none"]
"""What is known of how the amounts of a graph grow with the samples of a micro-batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderTable:
    """Which ops use which items (parameters and buffers, or tensors kept for backward), as arrays.

    Attributes:
        reader, item: ``[num_pairs]`` index of an op, and of an item that it uses.
        bytes: ``[num_items]`` sizes.
        position: name of an item -> its index.
    """

    reader: NDArray[np.int64]
    item: NDArray[np.int64]
    bytes: NDArray[np.float64]
    position: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class ValueTable:
    """What ops send to other ops, as arrays. A value is a tensor that one op sends in one phase.

    Attributes:
        src: ``[V]`` the op that sends it.
        tensor: ``[V]`` its place in `OpGraph.tensor_bytes`.
        backward: ``[V]`` it is sent in the backward phase.
        gradient: ``[V]`` a gradient flows back from a consumer.
        transfer_s: ``[V]`` seconds that moving it takes; -1 where the graph gives none.
        consumer_off, consumer: ``[V + 1]``, flat: its consuming ops, ascending.
        of_edge: ``[num_edges]`` the value of each edge; values have the order of their first edges.
    """

    src: NDArray[np.int64]
    tensor: NDArray[np.int64]
    backward: NDArray[np.bool_]
    gradient: NDArray[np.bool_]
    transfer_s: NDArray[np.float64]
    consumer_off: NDArray[np.int64]
    consumer: NDArray[np.int64]
    of_edge: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class OpGraph:
    """An operator graph; its ops are in a topological order.

    Args:
        name: for people.
        ops: in a topological order of the edges (`graph.topology.topological_order` makes one).
        edges: tensors between ops.
        tensor_bytes: size of every tensor that an edge or `Op.saved` names.
        param_bytes: size of every parameter that an op names.
        buffer_bytes: size of every buffer that an op names: statistics, masks and constants, which have no gradient.
        frozen: parameters that have no gradient: those that do not require one, and those that no loss reads.
        tensor_fixed_bytes: of tensors that do not grow in proportion to the samples, the part that is fixed.
        source: where it came from: what a person typed (``timm:resnet50``, a path); empty if generated.
        samples_per_microbatch: samples in the micro-batch that the costs are for.
        tokens_per_sample: length of the sequences that attention sees; 1 if there is none.
        dtype: element type of the parameters.
        compute_dtype: element type of products, which decides the rate of devices; empty for that of the parameters.
        low_tensors: tensors that are of low precision in mixed precision (`drlpp.graph.mixed_precision`); None if that
            is not known.
        measured_on: device type of the database that `REFERENCE` times were taken on; empty if unknown.
        slowdown: what measured times are multiplied by where 1, 2, ... devices of a host, which share its memory and
            caches, compute at once; empty if nobody measured that.
        batch_axis: ``linear``: amounts were seen at two micro-batch sizes, so their fixed parts are known; ``none``:
            they do not grow in proportion, so the model has this one size; ``unknown``: all but the fixed parts is
            taken to.
        given_stages: op -> stage of the split that the source carries; empty if it carries none.

    Raises:
        GraphError: duplicate or unknown names, negative sizes, a cycle or an order that is not topological.
    """

    name: str
    ops: tuple[Op, ...]
    edges: tuple[Edge, ...]
    tensor_bytes: Mapping[str, float]
    param_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    buffer_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    tensor_fixed_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    source: str = ""
    samples_per_microbatch: int = 1
    tokens_per_sample: int = 1
    dtype: str = "float32"
    compute_dtype: str = ""
    low_tensors: tuple[str, ...] | None = None
    measured_on: str = ""
    slowdown: tuple[float, ...] = ()
    batch_axis: BatchAxis = "unknown"
    given_stages: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.compute_dtype:
            object.__setattr__(self, "compute_dtype", self.dtype)
        if not self.ops:
            raise GraphError(f"graph {self.name!r} has no ops: a model needs at least one operator")
        index: dict[str, int] = {}
        for i, op in enumerate(self.ops):
            if op.name in index:
                raise GraphError(f"graph {self.name!r}: op {op.name!r} appears twice: names must be unique")
            index[op.name] = i
            for p in op.params:
                if p not in self.param_bytes:
                    raise GraphError(f"graph {self.name!r}: op {op.name!r} reads parameter {p!r} of unknown size")
            for b in op.buffers:
                if b not in self.buffer_bytes or b in self.param_bytes:
                    raise GraphError(
                        f"graph {self.name!r}: op {op.name!r} reads buffer {b!r}: a buffer has a size in "
                        "buffer_bytes, and is no parameter"
                    )
            for t in op.saved:
                if t not in self.tensor_bytes:
                    raise GraphError(f"graph {self.name!r}: op {op.name!r} saves tensor {t!r} of unknown size")
        if unknown := sorted(self.frozen - set(self.param_bytes)):
            raise GraphError(f"graph {self.name!r}: {unknown[0]!r} is frozen: it must be a parameter of the graph")
        if not all(math.isfinite(f) and f > 0 for f in self.slowdown):
            raise GraphError(f"graph {self.name!r}: slowdown is {list(self.slowdown)}: factors must be positive")
        for sizes in (self.tensor_bytes, self.param_bytes, self.buffer_bytes):
            for key, size in sizes.items():
                if not (math.isfinite(size) and size >= 0):
                    raise GraphError(f"graph {self.name!r}: {key!r} has {size} bytes: sizes must not be negative")
        for key, size in self.tensor_fixed_bytes.items():
            if not 0 <= size <= self.tensor_bytes.get(key, -1.0):
                raise GraphError(
                    f"graph {self.name!r}: {size} bytes of tensor {key!r} are fixed: it must be a tensor of the graph "
                    "and not more than its size"
                )
        for e in self.edges:
            for end in (e.src, e.dst):
                if end not in index:
                    raise GraphError(f"graph {self.name!r}: edge {e.src!r} -> {e.dst!r} names unknown op {end!r}")
            if e.tensor not in self.tensor_bytes:
                raise GraphError(
                    f"graph {self.name!r}: edge {e.src!r} -> {e.dst!r} carries {e.tensor!r} of unknown size"
                )
            if e.transfer_s is not None and not (math.isfinite(e.transfer_s) and e.transfer_s >= 0):
                raise GraphError(
                    f"graph {self.name!r}: edge {e.src!r} -> {e.dst!r} takes {e.transfer_s} s: must be >= 0"
                )
            if index[e.before] >= index[e.after]:
                raise GraphError(
                    f"graph {self.name!r}: edge {e.src!r} -> {e.dst!r} goes against the order of the ops: "
                    "list ops in topological order (a cyclic graph has none)"
                )
        if self.given_stages and (set(self.given_stages) != set(index) or min(self.given_stages.values()) < 0):
            raise GraphError(
                f"graph {self.name!r}: given_stages must name the stage of every op, and of nothing else, from 0 on"
            )
        for number in ("samples_per_microbatch", "tokens_per_sample"):
            if getattr(self, number) < 1:
                raise GraphError(f"graph {self.name!r}: {number} is {getattr(self, number)}: must be >= 1")

    def with_samples(self, samples: int) -> OpGraph:
        """The graph of a micro-batch of another size: amounts are ``fixed + per sample x samples``.

        Raises:
            GraphError: `samples` is below 1, or the model has one size only.
        """
        if samples == self.samples_per_microbatch:
            return self
        if self.batch_axis == "none":
            raise GraphError(
                f"graph {self.name!r} has micro-batches of {self.samples_per_microbatch} samples only: its costs do "
                f"not grow in proportion to the samples (are samples compared with one another?): capture it with "
                f"example inputs of {samples} samples"
            )
        before, fixed = self.samples_per_microbatch, self.tensor_fixed_bytes
        return dataclasses.replace(
            self,
            ops=tuple(op.scaled(samples, before) for op in self.ops),
            tensor_bytes={t: grown(size, fixed.get(t, 0.0), samples, before) for t, size in self.tensor_bytes.items()},
            samples_per_microbatch=samples,
        )

    @property
    def num_ops(self) -> int:
        return len(self.ops)

    @functools.cached_property
    def index(self) -> Mapping[str, int]:
        """Op name -> position in `ops`."""
        return {op.name: i for i, op in enumerate(self.ops)}

    @functools.cached_property
    def member_index(self) -> Mapping[str, int]:
        """Name in the source -> position in `ops` of the op that stands for it."""
        return {m: i for i, op in enumerate(self.ops) for m in op.members}

    @functools.cached_property
    def arcs(self) -> NDArray[np.int64]:
        """Distinct precedences ``[num_arcs, 2]``: op indices (before, after), sorted."""
        pairs = {(self.index[e.before], self.index[e.after]) for e in self.edges}
        return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)

    @functools.cached_property
    def predecessors(self) -> Sequence[Sequence[int]]:
        """Per op, the sorted indices of the ops directly before it."""
        out: list[list[int]] = [[] for _ in self.ops]
        for before, after in self.arcs.tolist():
            out[after].append(before)
        return out

    @functools.cached_property
    def successors(self) -> Sequence[Sequence[int]]:
        """Per op, the sorted indices of the ops directly after it."""
        out: list[list[int]] = [[] for _ in self.ops]
        for before, after in self.arcs.tolist():
            out[before].append(after)
        return out

    @functools.cached_property
    def op_param_bytes(self) -> NDArray[np.float64]:
        """``[num_ops]`` parameter bytes of each op; a shared parameter counts at its first reader."""
        return _first_owner_sizes(self.ops, "params", self.param_bytes)

    @functools.cached_property
    def op_trained_bytes(self) -> NDArray[np.float64]:
        """``[num_ops]`` the part of `op_param_bytes` that has a gradient."""
        sizes = {name: 0.0 if name in self.frozen else size for name, size in self.param_bytes.items()}
        return _first_owner_sizes(self.ops, "params", sizes)

    @functools.cached_property
    def op_frozen_bytes(self) -> NDArray[np.float64]:
        """``[num_ops]`` the rest of `op_param_bytes`, and buffers; a shared one counts at its first reader."""
        buffers = _first_owner_sizes(self.ops, "buffers", self.buffer_bytes)
        return self.op_param_bytes - self.op_trained_bytes + buffers

    @functools.cached_property
    def op_saved_bytes(self) -> NDArray[np.float64]:
        """``[num_ops]`` bytes each op keeps for backward; a shared tensor counts at its first keeper."""
        return _first_owner_sizes(self.ops, "saved", self.tensor_bytes)

    @functools.cached_property
    def edge_ends(self) -> NDArray[np.int64]:
        """``[num_edges, 2]`` op indices of source and destination of each edge."""
        return np.array([(self.index[e.src], self.index[e.dst]) for e in self.edges], dtype=np.int64).reshape(-1, 2)

    @functools.cached_property
    def edge_seconds(self) -> NDArray[np.float64]:
        """``[num_edges]`` seconds that moving the tensor of each edge takes; -1 where the graph gives none."""
        return np.array([-1.0 if e.transfer_s is None else e.transfer_s for e in self.edges], dtype=np.float64)

    @functools.cached_property
    def edge_gradients(self) -> NDArray[np.bool_]:
        """``[num_edges]`` whether a gradient flows back over each edge."""
        return np.array([e.requires_grad for e in self.edges], dtype=np.bool_)

    @functools.cached_property
    def values(self) -> ValueTable:
        """What ops send to other ops."""
        position = self.tensor_table.position
        tensor = np.array([position[e.tensor] for e in self.edges], dtype=np.int64)
        backward = np.array([e.phase == "backward" for e in self.edges], dtype=np.bool_)
        src, dst = self.edge_ends.T
        first, of_edge = numbered((src * len(position) + tensor) * 2 + backward)
        gradient, seconds = np.zeros(len(first), dtype=np.bool_), np.empty(len(first))
        gradient[of_edge[self.edge_gradients]] = True
        seconds[of_edge] = self.edge_seconds
        pairs = np.unique(of_edge * max(self.num_ops, 1) + dst)
        value, consumer = np.divmod(pairs, max(self.num_ops, 1))
        offset = offsets(np.bincount(value, minlength=len(first)))
        return ValueTable(src[first], tensor[first], backward[first], gradient, seconds, offset, consumer, of_edge)

    @functools.cached_property
    def tensor_table(self) -> ReaderTable:
        """Which ops keep which tensors for the backward pass."""
        return _reader_table([op.saved for op in self.ops], self.tensor_bytes)

    @functools.cached_property
    def tensor_maker(self) -> NDArray[np.int64]:
        """``[num_tensors]`` the op that makes each item of `tensor_table`, -1 where its name does not say.

        A tensor that an operator of the source makes has the operator's name, with more after a colon if it has many.
        """
        makers = [self.member_index.get(name.partition(":")[0], -1) for name in self.tensor_bytes]
        return np.array(makers, dtype=np.int64)

    @functools.cached_property
    def param_table(self) -> ReaderTable:
        """Which ops read which parameters and, behind them, buffers."""
        return _reader_table([op.params + op.buffers for op in self.ops], {**self.param_bytes, **self.buffer_bytes})

    @functools.cached_property
    def param_is_trained(self) -> NDArray[np.bool_]:
        """``[num_items]`` of `param_table`: whether it has a gradient."""
        trained = self.param_bytes.keys() - self.frozen
        return np.array([name in trained for name in self.param_table.position], dtype=np.bool_)

    @functools.cached_property
    def has_order(self) -> bool:
        """Some op needs its micro-batches in order on one device (`Op.in_order`)."""
        return any(op.in_order for op in self.ops)

    def has_times_of(self, kind: str) -> bool:
        """Whether every op has times of a device type."""
        return all(kind in op.times for op in self.ops)

    def can_be_divided(self, degree: int) -> bool:
        """Whether some op can be divided among so many devices."""
        return any(split.fits(degree) for op in self.ops for split in op.splits)

    @property
    def has_transfer_times(self) -> bool:
        """The edges carry their own transfer times (dnn-partitioning), so links of the cluster do not matter."""
        return bool((self.edge_seconds >= 0).any())


def _first_owner_sizes(ops: Sequence[Op], attribute: str, sizes: Mapping[str, float]) -> NDArray[np.float64]:
    out = np.zeros(len(ops))
    seen: set[str] = set()
    for i, op in enumerate(ops):
        for key in getattr(op, attribute):
            if key not in seen:
                seen.add(key)
                out[i] += sizes[key]
    return out


def _reader_table(used: Sequence[Sequence[str]], sizes: Mapping[str, float]) -> ReaderTable:
    position = {key: k for k, key in enumerate(sizes)}
    pairs = [(i, position[key]) for i, names in enumerate(used) for key in names]
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return ReaderTable(table[:, 0], table[:, 1], np.array(list(sizes.values()), dtype=np.float64), position)
