"""Sends and receives of one rank, over torch.distributed point-to-point messages.

Receives are posted a few actions before their values are needed, so that transfers run beside the computation; small
ones earlier, since each posting wakes the other rank. A send is posted as soon as its values exist and is not waited
for before it is known to be done: a gloo send completes only when the other side has posted its receive, so waiting for
it earlier could deadlock, and gloo does not tell whether a send is done without waiting. It is known by what comes
back: a message that the other side produced after an action that read the sent one proves it. What is not proven so is
waited for at the end of the step.

Small tensors of one transfer travel in one message: a message costs about as much as copying 64 KiB a few times over.

On gloo the two directions of a pair of ranks are independent, and messages find their receives by tags: sends are
posted in the planned order, receives in that of their need, so that none has memory long before it is used. On NCCL
all messages of a pair run one after the other, whatever their tags, so both directions share one queue, in the planned
order (`one_queue_per_pair`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from drlpp.errors import ExecutionError
from drlpp.plan.action import LOOKAHEAD
from drlpp.runtime.observe.stopwatch import Moment, Watch
from drlpp.runtime.transfers.planned import Slot, Transfer
from drlpp.runtime.transfers.waiting import FIRST_TIMEOUT_S

EARLY_BYTES = 1 << 18
"""Receives from one rank are posted still earlier as long as they take less memory than this together (gloo only: on a
GPU a posted receive keeps a kernel waiting)."""
PACK_BYTES = 1 << 16
"""Tensors below this size share a message with others of their transfer."""
_NEVER = 1 << 60


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape, element type and memory layout of a tensor that is sent.

    Attributes:
        order: dimensions from the outermost to the innermost in memory; empty: as in `shape`. A dense tensor in this
            order is sent without a copy.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def in_order(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as a contiguous one with the dimensions in `order`; a view if that is its layout."""
        tensor = tensor.resolve_conj().resolve_neg()
        return (tensor.permute(self.order) if self.order else tensor).contiguous()

    def empty(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory for the tensor: contiguous with the dimensions in `order`, and the same in its shape."""
        if not self.order:
            memory = torch.empty(self.shape, dtype=self.dtype, device=device)
            return memory, memory
        memory = torch.empty([self.shape[i] for i in self.order], dtype=self.dtype, device=device)
        return memory, memory.permute([self.order.index(i) for i in range(len(self.order))])


class _Layout:
    """How the tensors of a slot are spread over messages: the small ones in one, as bytes, each other alone.

    Attributes:
        packed: positions of the small ones, the widest element types first, so that all are aligned.
        alone: positions of the others.
        num_bytes: of all of them.
    """

    def __init__(self, specs: Sequence[TensorSpec], device: torch.device) -> None:
        small = [k for k, spec in enumerate(specs) if spec.num_bytes < PACK_BYTES]
        self.packed = sorted(small, key=lambda k: -specs[k].dtype.itemsize) if len(small) > 1 else []
        self.alone = [k for k in range(len(specs)) if k not in self.packed]
        self.num_bytes = sum(spec.num_bytes for spec in specs)
        self._specs = specs
        self._device = device
        self._sizes = [specs[k].num_bytes for k in self.packed]

    def pack(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors to send."""
        parts = [torch.cat([_bytes(tensors[k]) for k in self.packed])] if self.packed else []
        return parts + [_real(self._specs[k].in_order(tensors[k].detach())) for k in self.alone]

    def buffers(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Memory for the tensors to receive, and what will be in it: the tensors of the slot."""
        tensors: dict[int, torch.Tensor] = {}
        parts = []
        if self.packed:
            parts.append(torch.empty(sum(self._sizes), dtype=torch.uint8, device=self._device))
            for k, piece in zip(self.packed, parts[0].split(self._sizes), strict=True):
                tensors[k] = piece.view(self._specs[k].dtype).view(self._specs[k].shape)
        for k in self.alone:
            memory, tensors[k] = self._specs[k].empty(self._device)
            parts.append(_real(memory))
        return parts, [tensors[k] for k in range(len(self._specs))]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    if flat.stride(0) != 1:  # every element is the same one in memory: an expanded tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class TransferObserver(Watch, Protocol):
    """Is told when messages are under way."""

    def sending(self, transfer: Transfer, at: Moment) -> None:
        """A send is about to be posted."""
        ...

    def arrived(self, transfer: Transfer, num_bytes: int, posted: Moment, at: Moment) -> None:
        """A message has come whose receive was posted at `posted`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Sent:
    """A send that is posted, its tensors, and the action of the other device that reads it first."""

    works: list[dist.Work]
    tensors: list[torch.Tensor]
    needed_by: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Received:
    """A receive that is posted: what it fills, when it was posted, and the time of its end where somebody watches."""

    tensors: list[torch.Tensor]
    works: list[dist.Work]
    posted: Moment
    seen: Future[float] | None


class _Queue:
    """Transfers between this rank and one other (in one or both directions), in the order in which they are posted.

    Attributes:
        transfers: in this order.
        deadline: per transfer, the first action of this rank that needs it or one that is posted after it.
        next: the first one that is not posted.
        early_bytes: what receives may take that are posted earlier than needed.
        ready: what can be sent and is not posted.
    """

    def __init__(self, transfers: Sequence[Transfer], device: int, early_bytes: int) -> None:
        self.transfers = transfers
        self.early_bytes = early_bytes
        needed = [t.needed_by if t.dst == device else _NEVER for t in transfers]
        self.deadline = list(itertools.accumulate(reversed(needed), min))[::-1]
        self.next = 0
        self.ready: dict[int, list[torch.Tensor]] = {}


class Channel:
    """The point-to-point messages of one device of a plan, during one step after the other.

    Args:
        device: id in the cluster.
        transfers: of the whole plan (`plan_transfers`).
        specs: per micro-batch, slot -> its tensors; micro-batches of one form share a mapping.
        rank_of: device id -> rank in the process group.
        torch_device: where tensors are received.
        one_queue_per_pair: both directions of a pair of ranks share one order; needed by NCCL.

    Attributes:
        timeout_s: how long a message is waited for (gloo; NCCL has a watchdog of its own).
    """

    def __init__(
        self,
        device: int,
        transfers: Sequence[Transfer],
        specs: Sequence[Mapping[Slot, tuple[TensorSpec, ...]]],
        rank_of: Mapping[int, int],
        torch_device: torch.device,
        one_queue_per_pair: bool,
    ) -> None:
        self.timeout_s = FIRST_TIMEOUT_S
        self._device = device
        self._rank_of = rank_of
        self._torch_device = torch_device
        self._one_queue = one_queue_per_pair
        forms = {
            id(form): {slot: _Layout(spec, torch_device) for slot, spec in form.items()}
            for form in {id(form): form for form in specs}.values()
        }
        self._layouts = [forms[id(form)] for form in specs]
        grouped: dict[tuple[int, bool], list[Transfer]] = defaultdict(list)
        for t in transfers:
            if device in (t.src, t.dst):
                sends = t.src == device
                grouped[t.dst if sends else t.src, sends and not one_queue_per_pair].append(t)
        for (_, sends), queued in grouped.items():
            if not sends and not one_queue_per_pair:
                queued.sort(key=lambda t: t.needed_by)
        early_bytes = 0 if one_queue_per_pair else EARLY_BYTES
        self._queues = {key: _Queue(queued, device, early_bytes) for key, queued in grouped.items()}
        self._received: dict[int, _Received] = {}
        self._sent: dict[int, list[_Sent]] = defaultdict(list)
        self._observer: TransferObserver | None = None
        self._watchers: dict[int, ThreadPoolExecutor] = {}

    def observe(self, observer: TransferObserver | None) -> None:
        """Has an observer told of all messages of the next steps.

        A receive of gloo tells its end only to those who wait for it, so a thread for each source does.
        """
        for watcher in self._watchers.values():
            watcher.shutdown()
        self._observer = observer
        watched = {t.src for q in self._queues.values() for t in q.transfers} - {self._device}
        cpu = self._torch_device.type == "cpu"
        self._watchers = {src: ThreadPoolExecutor(1) for src in watched} if cpu and observer is not None else {}

    def connect(self) -> None:
        """Sends a byte to each rank that messages are exchanged with. Called on all ranks, before the first step.

        NCCL makes a communicator for a pair of ranks with their first message, and the host waits for the other rank
        meanwhile. In the order of a schedule ranks could wait for each other in a circle; in this one they cannot.
        """
        here = self._rank_of[self._device]
        for other in sorted({self._rank_of[device] for device, _ in self._queues}):
            byte = torch.zeros(1, dtype=torch.uint8, device=self._torch_device)
            if here < other:
                dist.send(byte, other)
            else:
                dist.recv(byte, other)

    def begin(self) -> None:
        """Starts a step."""
        for queue in self._queues.values():
            queue.next = 0

    def post(self, action: int) -> None:
        """Posts the receives of the next actions; `action` is the index of the one that is about to run."""
        for queue in self._queues.values():
            self._advance(queue, action + LOOKAHEAD)

    def send(self, transfer: Transfer, tensors: Sequence[torch.Tensor]) -> None:
        """Sends the tensors of a transfer when the planned order allows it. The caller may drop them."""
        queue = self._queues[transfer.dst, not self._one_queue]
        queue.ready[transfer.order] = self._layouts[transfer.microbatch][transfer.slot].pack(tensors)
        self._advance(queue, transfer.produced_by + LOOKAHEAD)

    def receive(self, transfer: Transfer) -> Sequence[torch.Tensor]:
        """Waits for a transfer whose receive was posted.

        Raises:
            ExecutionError: it does not come in time, or the other side is gone.
        """
        received = self._received.pop(transfer.order)
        what = f"the {transfer.slot.content} of micro-batch {transfer.microbatch}"
        num_bytes = self._layouts[transfer.microbatch][transfer.slot].num_bytes
        came_s = self._wait(received.works, what, transfer.src, received.seen)
        if self._observer is not None:
            at = self._observer.now() if received.seen is None else came_s
            self._observer.arrived(transfer, num_bytes, received.posted, at)
        self._queues[transfer.src, False].early_bytes += num_bytes
        self._release(transfer.src, transfer.produced_by)
        return received.tensors

    def finish(self) -> None:
        """Ends a step: waits until all sends are done."""
        for device in self._sent:
            self._release(device, _NEVER)

    def _release(self, device: int, action: int) -> None:
        """Lets go of what another device has read up to one of its actions."""
        kept = []
        for sent in self._sent[device]:
            if sent.needed_by <= action:
                self._wait(sent.works, "a message to be received", device)
            else:
                kept.append(sent)
        self._sent[device] = kept

    def _wait(self, works: Sequence[dist.Work], what: str, other: int, seen: Future[float] | None = None) -> float:
        """Waits for all parts of a message, or for the watcher that does; returns when it came."""
        try:
            return self._end_of(works) if seen is None else seen.result()
        except RuntimeError as error:
            late = "Timed out" in str(error)
            why = f"nothing came for {self.timeout_s:.0f} s" if late else "the connection broke"
            raise ExecutionError(
                f"device {self._device} waits for {what} with device {other}: {why}: its rank hangs or has died"
            ) from error

    def _end_of(self, works: Sequence[dist.Work]) -> float:
        for work in works:
            if self._torch_device.type == "cpu":
                work.wait(timedelta(seconds=self.timeout_s))
            else:
                work.wait()
        return time.perf_counter()

    def _advance(self, queue: _Queue, horizon: int) -> None:
        while queue.next < len(queue.transfers):
            transfer = queue.transfers[queue.next]
            layout = self._layouts[transfer.microbatch][transfer.slot]
            if transfer.src == self._device:
                parts = queue.ready.pop(transfer.order, None)
                if parts is None:
                    return
                if self._observer is not None:
                    self._observer.sending(transfer, self._observer.now())
                works = self._post(dist.ProcessGroup.send, parts, transfer.dst, transfer.tag)
                self._sent[transfer.dst].append(_Sent(works, parts, transfer.needed_by))
            else:
                early = queue.deadline[queue.next] > horizon and not queue.ready
                if early and layout.num_bytes > queue.early_bytes:
                    return
                parts, tensors = layout.buffers()
                works = self._post(dist.ProcessGroup.recv, parts, transfer.src, transfer.tag)
                watcher = self._watchers.get(transfer.src)
                seen = None if watcher is None else watcher.submit(self._end_of, works)
                posted = 0.0 if self._observer is None else self._observer.now()
                self._received[transfer.order] = _Received(tensors, works, posted, seen)
                queue.early_bytes -= layout.num_bytes
            queue.next += 1

    def _post(
        self, operation: Callable[..., dist.Work], parts: Sequence[torch.Tensor], device: int, tag: int
    ) -> list[dist.Work]:
        rank = self._rank_of[device]
        group = dist.distributed_c10d._get_default_group()  # not kept: who holds a group keeps its threads running
        try:
            return [operation(group, [part], rank, tag + k) for k, part in enumerate(parts)]
        except RuntimeError as error:
            raise ExecutionError(
                f"device {self._device} cannot reach device {device}: the connection broke: its rank has died"
            ) from error
