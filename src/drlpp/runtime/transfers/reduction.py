"""Sums over the ranks that share parameters: replicas of a stage, and stages that read the same (tied) parameter.

Gradients are summed in buckets of some MiB, in the order in which the plan completes them. The all-reduce of a bucket
starts as soon as the last gradient in it is complete, in the middle of a backward pass too, so that it runs beside the
rest of that pass and of the schedule (Li et al., "PyTorch Distributed", VLDB 2020, section 3.2). All ranks start their
all-reduces in one planned order.

Replicas also share the buffers that the forward pass changes, and a schedule may run micro-batches out of order. Only
what batch norm and counters do can be combined exactly (`CombinedBuffers`), and is, in the order of the micro-batches;
the statistics then equal those of one device that ran the micro-batches one after the other.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from drlpp.plan import Plan
from drlpp.runtime.observe.stopwatch import Moment, Watch
from drlpp.runtime.transfers.waiting import FIRST_TIMEOUT_S, wait_for_all

Holders = tuple[int, ...]
"""Devices that hold a copy of the same parameter, sorted."""
BUCKET_BYTES = 1 << 22
"""A bucket of gradients is full at this size."""


def new_groups(sets: Sequence[Holders], rank_of: Mapping[int, int]) -> Mapping[Holders, dist.ProcessGroup]:
    """A process group for each set of devices. All ranks have to call this with the same sets in the same order."""
    groups = {}
    for devices in sets:
        group = dist.new_group([rank_of[d] for d in devices])
        if isinstance(group, dist.ProcessGroup):
            groups[devices] = group
    return groups


@dataclasses.dataclass(frozen=True, slots=True)
class SharedParameter:
    """A parameter that several ranks hold.

    Attributes:
        name: of the parameter.
        parameter: of this rank.
        holders: the devices that hold it.
        last_action: index of the last action of this rank that adds to its gradient; -1 if there is none.
        at_once: that action adds to it in one piece (B does, W may not), so that it is complete then.
        sparse: its gradient is sparse on every rank.
        owner: rank that gets the sum; None: all holders do.
    """

    name: str
    parameter: nn.Parameter
    holders: Holders
    last_action: int
    at_once: bool
    sparse: bool = False
    owner: int | None = None


def shared_parameters(
    plan: Plan,
    device: int | None,
    sharing: Mapping[str, Sequence[int]],
    summed_with: Mapping[str, Holders],
    times: Mapping[tuple[int, int], tuple[int, int]],
    tensors: Mapping[str, torch.Tensor],
) -> list[SharedParameter]:
    """The parameters that a device shares with others, in the order in which the plan completes their gradients.

    Args:
        plan: a legal plan.
        device: of this rank; None if it runs nothing.
        sharing: parameter -> stages that read it, in the order of their first use in the model.
        summed_with: parameter of this rank -> devices that sum its gradient.
        times: see `logical_times`.
        tensors: parameters of this rank.
    """
    last: dict[tuple[int, int], tuple[int, bool]] = {}
    for d, actions in plan.schedule.items():
        for i, a in enumerate(actions):
            if a.kind in "BW":
                last[d, a.stage] = i, a.kind == "B"
    out = []
    for position, (name, stages) in enumerate(sharing.items()):
        devices = summed_with.get(name, ())
        parameter = tensors.get(name)
        if device is not None and len(devices) > 1 and isinstance(parameter, nn.Parameter):
            ends = {d: max((last.get((d, s), (-1, False)) for s in stages), default=(-1, False)) for d in devices}
            completed = max(times.get((d, i), (0, 0)) for d, (i, _) in ends.items())
            out.append((completed, -position, SharedParameter(name, parameter, devices, *ends[device])))
    return [s for _, _, s in sorted(out, key=lambda item: item[:2])]


@dataclasses.dataclass(frozen=True, slots=True)
class _Bucket:
    """Gradients that travel together.

    Attributes:
        parameters: theirs.
        missing: those (by identity) whose gradients are not complete in this step.
    """

    parameters: list[SharedParameter]
    missing: set[int]


class ReductionObserver(Watch, Protocol):
    """Is told of sums."""

    def all_reduced(self, num_bytes: int, begin: Moment, end: Moment) -> None:
        """Gradients were summed."""
        ...


class GradientReducer:
    """The all-reduces of one rank.

    Args:
        shared: the parameters that this rank shares, in the order in which the plan completes their gradients.
        groups: set of devices -> process group.

    Attributes:
        timeout_s: how long other ranks are waited for.
        observer: is told of all sums; may be changed between steps.
    """

    def __init__(self, shared: Sequence[SharedParameter], groups: Mapping[Holders, dist.ProcessGroup]) -> None:
        self.timeout_s = FIRST_TIMEOUT_S
        self.observer: ReductionObserver | None = None
        self._groups = groups
        self._buckets = _buckets(shared)
        self._bucket_of = {id(s.parameter): bucket for bucket in self._buckets for s in bucket.parameters}
        self._by_last: dict[int, list[SharedParameter]] = defaultdict(list)
        for s in shared:
            self._by_last[s.last_action].append(s)
        self._before: dict[int, torch.Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._started: list[tuple[dist.Work | None, torch.Tensor, _Span | None]] = []

    def begin(self) -> None:
        """Starts a step. Gradients of earlier steps, which are sums already, are put aside."""
        self._started.clear()
        for bucket in self._buckets:
            for s in bucket.parameters:
                bucket.missing.add(id(s.parameter))
                if s.parameter.grad is not None:
                    self._before[id(s.parameter)] = s.parameter.grad
                    s.parameter.grad = None
        self.after_action(-1)

    def after_action(self, index: int) -> None:
        """Starts the all-reduces whose gradients are complete on this rank, and watches those that come next."""
        for handle in self._hooks:
            handle.remove()
        self._hooks.clear()
        for s in self._by_last.get(index, ()):
            self._bucket_of[id(s.parameter)].missing.discard(id(s.parameter))
        self._start_ready()
        for s in self._by_last.get(index + 1, ()):
            if s.at_once:
                self._hooks.append(s.parameter.register_post_accumulate_grad_hook(self._complete))

    def finish(self) -> None:
        """Waits for all and stores the sums in `.grad`; of what belongs to another rank nothing is left."""
        for (work, flat, span), bucket in zip(self._started, self._buckets, strict=True):
            wait_for_all(work, "the sum of gradients", self.timeout_s, flat.device)
            if self.observer is not None and span is not None:
                self.observer.all_reduced(_bytes_of(flat), span.begin, span.end())
            if flat.is_sparse:
                totals = [flat]
            else:
                pieces = flat.split([s.parameter.numel() for s in bucket.parameters])
                totals = [p.view(s.parameter.shape) for p, s in zip(pieces, bucket.parameters, strict=True)]
            for s, total in zip(bucket.parameters, totals, strict=True):
                before = self._before.pop(id(s.parameter), None)
                if s.owner not in (None, dist.get_rank()):
                    continue
                s.parameter.grad = (
                    total if before is None else before + total if total.is_sparse else before.add_(total)
                )

    def _complete(self, parameter: torch.Tensor) -> None:
        self._bucket_of[id(parameter)].missing.discard(id(parameter))
        self._start_ready()

    def _start_ready(self) -> None:
        """Starts the next all-reduces, in the planned order, as far as their gradients are complete."""
        while len(self._started) < len(self._buckets) and not self._buckets[len(self._started)].missing:
            parameters = [s.parameter for s in self._buckets[len(self._started)].parameters]
            first = self._buckets[len(self._started)].parameters[0]
            if first.sparse:
                flat = _sparse_gradient(parameters[0])
            else:
                flat = torch.cat([_dense_gradient(p).reshape(-1) for p in parameters])
            for parameter in parameters:
                parameter.grad = None
            span = None if self.observer is None else _Span(self.observer)
            work = self._start(flat, first)
            if span is not None and work is not None:
                span.follow(work, flat.device)
            self._started.append((work, flat, span))

    def _start(self, flat: torch.Tensor, first: SharedParameter) -> dist.Work | None:
        group = self._groups[first.holders]
        if first.owner is None or first.sparse:  # a sum of sparse tensors goes to all
            return dist.all_reduce(flat, group=group, async_op=True)
        return dist.reduce(flat, first.owner, group=group, async_op=True)


class _Span:
    """When an all-reduce began and ended."""

    def __init__(self, watch: Watch) -> None:
        self.begin = watch.now()
        self._watch = watch
        self._end: Moment | None = None

    def follow(self, work: dist.Work, device: torch.device) -> None:
        """Has the end written down when it comes; NCCL tells only those who wait."""
        if device.type == "cpu":
            work.get_future().then(lambda _: self._ended())

    def end(self) -> Moment:
        """The end, or now if nobody saw it."""
        return self._watch.now() if self._end is None else self._end

    def _ended(self) -> None:
        self._end = self._watch.now()


def _buckets(shared: Sequence[SharedParameter]) -> list[_Bucket]:
    """Fills buckets in the given order, one at a time for each set of devices, owner and element type.

    They are in the order of their last parameters, which is the same on all ranks.
    """
    kept: list[tuple[int, _Bucket]] = []
    filling: dict[tuple[Holders, int | None, torch.dtype], tuple[int, _Bucket]] = {}
    for position, s in enumerate(shared):
        if s.sparse:
            kept.append((position, _Bucket([s], set())))
            continue
        key = s.holders, s.owner, s.parameter.dtype
        _, bucket = filling.get(key, (0, _Bucket([], set())))
        bucket.parameters.append(s)
        filling[key] = position, bucket
        if sum(other.parameter.nbytes for other in bucket.parameters) >= BUCKET_BYTES:
            kept.append(filling.pop(key))
    return [bucket for _, bucket in sorted([*kept, *filling.values()], key=lambda item: item[0])]


def _dense_gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter).detach()
    gradient = parameter.grad.detach()
    return gradient.to_dense() if gradient.is_sparse else gradient


def _sparse_gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is not None:
        return parameter.grad.detach().coalesce()
    rows = torch.zeros(1, 0, dtype=torch.long, device=parameter.device)
    return torch.sparse_coo_tensor(rows, parameter.detach()[:0], parameter.shape).coalesce()


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor._values().nbytes if tensor.is_sparse else tensor.nbytes


class CombinedBuffers:
    """The buffers that one stage changes, where it has replicas or runs micro-batches out of order.

    The forward pass of each micro-batch runs on zeros, so that what it leaves in a buffer is its own contribution:
    ``alpha * statistic`` for an exponential moving average with decay ``1 - alpha``, the increment for a counter. The
    buffer after M micro-batches is ``decay^M * before + sum over m of decay^(M-1-m) * contribution(m)``.

    Args:
        module: of the stage.
        decay: buffer name -> factor by which one micro-batch shrinks it (1 for counters).
        num_microbatches: M.
        group: of the replicas; None if there is one device only.
    """

    def __init__(
        self, module: nn.Module, decay: Mapping[str, float], num_microbatches: int, group: dist.ProcessGroup | None
    ) -> None:
        self._module = module
        self._decay = decay
        self._num_microbatches = num_microbatches
        self._group = group
        self._total: dict[str, torch.Tensor] = {}

    def zeros(self) -> dict[str, torch.Tensor]:
        """What the forward pass of a micro-batch runs on."""
        return {name: torch.zeros_like(self._module.get_buffer(name)) for name in self._decay}

    def add(self, microbatch: int, contribution: Mapping[str, torch.Tensor]) -> None:
        """Takes what a micro-batch left in the buffers of `zeros`."""
        for name, value in contribution.items():
            weight = self._decay[name] ** (self._num_microbatches - 1 - microbatch)
            part = value * weight if value.is_floating_point() else value
            self._total[name] = self._total[name] + part if name in self._total else part

    def finish(self, timeout_s: float = FIRST_TIMEOUT_S) -> None:
        """Combines the contributions of all replicas at the end of a step."""
        for name, decay in self._decay.items():
            buffer = self._module.get_buffer(name)
            total = self._total.pop(name, None)
            total = torch.zeros_like(buffer) if total is None else total.contiguous()
            if self._group is not None:
                work = dist.all_reduce(total, group=self._group, async_op=True)
                wait_for_all(work, "the sum of batch statistics", timeout_s, total.device)
            with torch.no_grad():
                if buffer.is_floating_point():
                    buffer.mul_(decay**self._num_microbatches)
                buffer.add_(total)
