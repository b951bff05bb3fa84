"""Sends and receives of one rank, over torch.distributed point-to-point messages.

Receives are posted a few actions before their values are needed, so that transfers run beside the computation. A
send is posted as soon as its values exist and is not waited for before it is known to be done: a gloo send completes
only when the other side has posted its receive, so waiting for it earlier could deadlock, and gloo does not tell
whether a send is done without waiting. It is known by what comes back: a message that the other side produced after
an action that read the sent one proves it. What is not proven so is waited for at the end of the step.

On gloo the two directions of a pair of ranks are independent queues, each in the planned order. On NCCL all messages of
a pair run one after the other, whatever their tags, so both directions share one queue (`one_queue_per_pair`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from drlpp.errors import ExecutionError
from drlpp.runtime.messages import Slot, Transfer
from drlpp.runtime.waiting import FIRST_TIMEOUT_S

LOOKAHEAD = 2
"""Actions before its first reader at which a receive is posted."""
_NEVER = 1 << 60


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and element type of a tensor that is received."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True, slots=True)
class _Sent:
    """A send that is posted, its tensor, and the action of the other device that reads it first."""

    work: dist.Work
    tensor: torch.Tensor
    needed_by: int


class _Queue:
    """Transfers between this rank and one other (in one or both directions), in the order in which they are posted.

    Attributes:
        transfers: in this order.
        deadline: per transfer, the first action of this rank that needs it or one that is posted after it.
        next: the first one that is not posted.
        ready: what can be sent and is not posted.
    """

    def __init__(self, transfers: Sequence[Transfer], device: int) -> None:
        self.transfers = transfers
        needed = [t.needed_by if t.dst == device else _NEVER for t in transfers]
        self.deadline = list(itertools.accumulate(reversed(needed), min))[::-1]
        self.next = 0
        self.ready: dict[int, tuple[torch.Tensor, ...]] = {}


class Channel:
    """The point-to-point messages of one device of a plan, during one step after the other.

    Args:
        device: id in the cluster.
        transfers: of the whole plan (`plan_transfers`).
        specs: slot -> its tensors.
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
        specs: Mapping[Slot, tuple[TensorSpec, ...]],
        rank_of: Mapping[int, int],
        torch_device: torch.device,
        one_queue_per_pair: bool,
    ) -> None:
        self.timeout_s = FIRST_TIMEOUT_S
        self._device = device
        self._specs = specs
        self._rank_of = rank_of
        self._torch_device = torch_device
        self._grouped: dict[tuple[int, bool], list[Transfer]] = defaultdict(list)
        for t in transfers:
            if device in (t.src, t.dst):
                sends = t.src == device
                self._grouped[t.dst if sends else t.src, sends and not one_queue_per_pair].append(t)
        self._one_queue = one_queue_per_pair
        self._queues: dict[tuple[int, bool], _Queue] = {}
        self._received: dict[int, tuple[list[torch.Tensor], list[dist.Work]]] = {}
        self._sent: dict[int, deque[_Sent]] = defaultdict(deque)
        self.begin()

    def begin(self) -> None:
        """Starts a step."""
        self._queues = {key: _Queue(transfers, self._device) for key, transfers in self._grouped.items()}

    def post(self, action: int) -> None:
        """Posts the receives of the next actions; `action` is the index of the one that is about to run."""
        for queue in self._queues.values():
            self._advance(queue, action + LOOKAHEAD)

    def send(self, transfer: Transfer, tensors: Sequence[torch.Tensor]) -> None:
        """Sends the tensors of a transfer when the planned order allows it. The caller may drop them."""
        queue = self._queues[transfer.dst, not self._one_queue]
        queue.ready[transfer.order] = tuple(t.detach().contiguous() for t in tensors)
        self._advance(queue, transfer.produced_by + LOOKAHEAD)

    def receive(self, transfer: Transfer) -> list[torch.Tensor]:
        """Waits for a transfer whose receive was posted.

        Raises:
            ExecutionError: it does not come in time, or the other side is gone.
        """
        tensors, works = self._received.pop(transfer.order)
        for work in works:
            self._wait(work, f"the {transfer.slot.content} of micro-batch {transfer.microbatch}", transfer.src)
        self._release(transfer.src, transfer.produced_by)
        return tensors

    def finish(self) -> None:
        """Ends a step: waits until all sends are done."""
        for device in self._sent:
            self._release(device, _NEVER)

    def _release(self, device: int, action: int) -> None:
        """Lets go of what another device has read up to one of its actions."""
        kept: deque[_Sent] = deque()
        for sent in self._sent[device]:
            if sent.needed_by <= action:
                self._wait(sent.work, "a message to be received", device)
            else:
                kept.append(sent)
        self._sent[device] = kept

    def _wait(self, work: dist.Work, what: str, other: int) -> None:
        try:
            if self._torch_device.type == "cpu":
                work.wait(timedelta(seconds=self.timeout_s))
            else:
                work.wait()
        except RuntimeError as error:
            late = "Timed out" in str(error)
            why = f"nothing came for {self.timeout_s:.0f} s" if late else "the connection broke"
            raise ExecutionError(
                f"device {self._device} waits for {what} with device {other}: {why}: its rank hangs or has died"
            ) from error

    def _advance(self, queue: _Queue, horizon: int) -> None:
        while queue.next < len(queue.transfers):
            transfer = queue.transfers[queue.next]
            if transfer.src == self._device:
                tensors = queue.ready.pop(transfer.order, None)
                if tensors is None:
                    return
                for k, tensor in enumerate(tensors):
                    work = self._post(dist.isend, tensor, transfer.dst, transfer.tag + k)
                    self._sent[transfer.dst].append(_Sent(work, tensor, transfer.needed_by))
            elif queue.deadline[queue.next] > horizon and not queue.ready:
                return
            else:
                buffers = [
                    torch.empty(spec.shape, dtype=spec.dtype, device=self._torch_device)
                    for spec in self._specs[transfer.slot]
                ]
                works = [self._post(dist.irecv, b, transfer.src, transfer.tag + k) for k, b in enumerate(buffers)]
                self._received[transfer.order] = buffers, works
            queue.next += 1

    def _post(
        self, operation: Callable[..., dist.Work | None], tensor: torch.Tensor, device: int, tag: int
    ) -> dist.Work:
        try:
            work = operation(tensor, self._rank_of[device], tag=tag)
        except RuntimeError as error:
            raise ExecutionError(
                f"device {self._device} cannot reach device {device}: the connection broke: its rank has died"
            ) from error
        if work is None:
            raise RuntimeError("this process is not in the process group")
        return work
