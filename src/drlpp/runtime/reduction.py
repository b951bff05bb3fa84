"""Sums over the ranks that share parameters: replicas of a stage, and stages that read the same (tied) parameter.

For each set of devices there is one all-reduce per step and element type, started as soon as this rank has run its last
backward pass that adds to these gradients, so that it runs beside the rest of the schedule. All ranks start their
all-reduces in one planned order.

Replicas also share the buffers that the forward pass changes, and a schedule may run micro-batches out of order. Only
what batch norm and counters do can be combined exactly (`CombinedBuffers`), and is, in the order of the micro-batches;
the statistics then equal those of one device that ran the micro-batches one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from drlpp.plan import Plan
from drlpp.runtime.waiting import FIRST_TIMEOUT_S, wait_for_all

Holders = tuple[int, ...]
"""Devices that hold a copy of the same parameter, sorted."""


def holders(plan: Plan, stages: Sequence[int]) -> Holders:
    """Devices of all of the given stages."""
    return tuple(sorted({d for s in stages for d in plan.stages[s].devices}))


def new_groups(sets: Sequence[Holders], rank_of: Mapping[int, int]) -> Mapping[Holders, dist.ProcessGroup]:
    """A process group for each set of devices. All ranks have to call this with the same sets in the same order."""
    groups = {}
    for devices in sets:
        group = dist.new_group([rank_of[d] for d in devices])
        if isinstance(group, dist.ProcessGroup):
            groups[devices] = group
    return groups


class GradientReducer:
    """The all-reduces of one rank.

    Args:
        parameters: parameters of this rank by the set of devices that hold them; sets of one device are ignored. In
            the order in which all ranks start them.
        last_action: set of devices -> index of the last action of this rank that adds to these gradients.
        groups: set of devices -> process group.

    Attributes:
        timeout_s: how long other ranks are waited for.
    """

    def __init__(
        self,
        parameters: Mapping[Holders, Sequence[nn.Parameter]],
        last_action: Mapping[Holders, int],
        groups: Mapping[Holders, dist.ProcessGroup],
    ) -> None:
        self._parameters = {d: list(p) for d, p in parameters.items() if len(d) > 1}
        self._last_action = last_action
        self._groups = groups
        self.timeout_s = FIRST_TIMEOUT_S
        self._waiting: list[Holders] = []
        self._started: list[tuple[dist.Work | None, torch.device]] = []

    def begin(self) -> None:
        """Starts a step."""
        self._waiting = list(self._parameters)

    def after_action(self, index: int) -> None:
        """Starts the all-reduces whose gradients are complete on this rank."""
        while self._waiting and self._last_action[self._waiting[0]] <= index:
            self._start(self._waiting.pop(0))

    def finish(self) -> None:
        """Starts those that no action started, and waits until `.grad` holds the sums."""
        while self._waiting:
            self._start(self._waiting.pop(0))
        for work, device in self._started:
            wait_for_all(work, "the sum of gradients", self.timeout_s, device)
        self._started.clear()

    def _start(self, devices: Holders) -> None:
        by_type: dict[torch.dtype, list[nn.Parameter]] = defaultdict(list)
        for parameter in self._parameters[devices]:
            by_type[parameter.dtype].append(parameter)
        for parameters in by_type.values():
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1) for p in parameters]
            )
            pieces = flat.split([p.numel() for p in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view(parameter.shape)  # summed in place; what was there before is freed now
            work = dist.all_reduce(flat, group=self._groups[devices], async_op=True)
            self._started.append((work, flat.device))


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
