"""`build`: one rank's part of a plan, ready to train: `Pipeline.step`, `parameters`, `state_dict`.

It fits a training loop that a person has already::

    pipeline = build(captured, plan)
    optimizer = torch.optim.AdamW(pipeline.parameters())
    for batch in batches:
        loss = pipeline.step(batch)
        optimizer.step()
        optimizer.zero_grad()

Every rank runs the same lines; it holds the parameters of its own stages only, under the names that they have in the
model. Rank r runs the r-th of the devices that the plan uses.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import CapturedModel, initial_values
from drlpp.errors import InputError, PlanError
from drlpp.graph.stages import Message
from drlpp.plan import Plan, validate
from drlpp.runtime.executor import Executor, StageCompute
from drlpp.runtime.observe.heartbeat import Where
from drlpp.runtime.observe.recording import Recorder
from drlpp.runtime.stage.batches import Microbatch, draw, split_batch
from drlpp.runtime.stage.compute import TorchStage
from drlpp.runtime.stage.precision import under_autocast
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import (
    StageModule,
    cut_stage,
    find_tensor,
    parameter_readers,
    stage_of_node,
    tensors_read,
    value_messages,
    value_spec,
)
from drlpp.runtime.transfers.channel import Channel, TensorSpec
from drlpp.runtime.transfers.planned import Slot, logical_times, plan_transfers, stage_slots
from drlpp.runtime.transfers.reduction import CombinedBuffers, GradientReducer, holders, new_groups, shared_parameters
from drlpp.runtime.transfers.waiting import FIRST_TIMEOUT_S, wait_for_all


def used_devices(plan: Plan) -> tuple[int, ...]:
    """Devices that run at least one stage, in order: rank r runs the r-th of them."""
    return tuple(sorted({d for stage in plan.stages for d in stage.devices}))


class Pipeline:
    """The stages of a plan that this rank runs. Made by `build`."""

    def __init__(
        self,
        captured: CapturedModel,
        plan: Plan,
        *,
        seed: int,
        state_dict: Mapping[str, torch.Tensor] | None,
        make_model: Callable[[], nn.Module] | None,
        torch_device: torch.device,
        one_queue_per_pair: bool,
        timeout_s: float,
    ) -> None:
        self.plan = plan
        devices = used_devices(plan)
        if len(devices) > dist.get_world_size():
            raise InputError(
                f"the plan uses {len(devices)} devices, there are {dist.get_world_size()} processes: start one each"
            )
        rank_of = {d: r for r, d in enumerate(devices)}
        rank = dist.get_rank()
        self.device = devices[rank] if rank < len(devices) else None
        self.torch_device = torch_device
        self._context = RandomContext(seed)
        self._aliases = captured.aliases
        self._losses: dict[int, torch.Tensor] = {}

        stage_of = stage_of_node(captured, plan)
        messages = value_messages(captured, plan, stage_of)
        transfers = plan_transfers(plan, messages)
        here = [s.index for s in plan.stages if self.device in s.devices]
        foreign = state_dict is not None
        if state_dict is None and make_model is not None:
            read = tensors_read(captured, stage_of, here)
            state_dict = initial_values(make_model, read.intersection(captured.parameters), seed)
        source = _Tensors(captured, state_dict, torch_device, copy=foreign)
        self._stages = {s: cut_stage(captured, stage_of, s, source, self._context, torch_device) for s in here}
        self._tensors = source.taken
        needed = {name for stage in self._stages.values() for name in stage.inputs}
        self._example = captured.example_inputs
        self._microbatches = _Microbatches(
            {n: t for n, t in self._example.items() if n in needed}, self._context, torch_device
        )

        sharing = parameter_readers(captured, stage_of)
        times = logical_times(plan, transfers)
        self._owner = {name: holders(plan, stages)[0] for name, stages in sharing.items()}
        sets = {holders(plan, stages) for stages in (*sharing.values(), *([s.index] for s in plan.stages))}
        groups = new_groups(sorted(h for h in sets if len(h) > 1), rank_of)
        for name, stages in sharing.items():
            h = holders(plan, stages)
            if len(h) > 1 and self.device in h:  # copies begin equal, whatever each rank was given
                dist.broadcast(self._tensors[name].detach(), rank_of[h[0]], group=groups[h])
        self._combined_buffers = {
            s: CombinedBuffers(stage.module, _decays(stage), plan.num_microbatches, groups.get(holders(plan, [s])))
            for s, stage in self._stages.items()
            if stage.changed and not _in_order(plan, s)
        }
        self._reducer = GradientReducer(shared_parameters(plan, self.device, sharing, times, self._tensors), groups)
        slots = stage_slots(messages, plan.num_stages)
        self._executor: Executor | None = None
        if self.device is not None:
            computes: dict[int, StageCompute] = {
                s: TorchStage(
                    stage,
                    slots[s],
                    messages,
                    loss=captured.loss,
                    num_microbatches=plan.num_microbatches,
                    recompute=plan.stages[s].recompute,
                    context=self._context,
                    microbatch=functools.partial(self._microbatches.take, stage.inputs),
                    report_loss=self._losses.__setitem__,
                    combined_buffers=self._combined_buffers.get(s),
                )
                for s, stage in self._stages.items()
            }
            channel = Channel(
                self.device, transfers, _specs(captured, messages), rank_of, torch_device, one_queue_per_pair
            )
            channel.connect()
            self._executor = Executor(
                plan, self.device, messages, transfers, channel, computes, self._reducer.after_action
            )
        self.limit_waits(timeout_s)

    def step(self, batch: Microbatch | Sequence[Microbatch] | None = None) -> torch.Tensor:
        """Runs the forward and backward passes of all micro-batches; gradients are added to `.grad` of the parameters.

        Args:
            batch: tensors by input name, holding all micro-batches along the first dimension, or a list of
                micro-batches; None draws one from the example inputs (`drlpp.runtime.stage.batches`).

        Returns:
            The mean loss over the micro-batches, on every rank.

        Raises:
            InputError: the batch does not fit the plan.
            ExecutionError: another rank hangs or has died.
        """
        m = self.plan.num_microbatches
        needed = self._microbatches.example
        self._microbatches.given = None if batch is None else split_batch(batch, self._example, m, needed)
        self._losses.clear()
        self._reducer.begin()
        if self._executor is not None:
            self._executor.run()
        self._reducer.finish()
        for shared in self._combined_buffers.values():
            shared.finish(self._timeout_s)
        if self._executor is not None:
            self._executor.finish()
        self._microbatches.given = None
        self._context.step += 1
        total = torch.zeros((), dtype=torch.float64, device=self.torch_device)
        for loss in self._losses.values():
            total += loss
        self._sum(total, "the sum of losses")
        return (total / m).float()

    def draw(self) -> list[Microbatch]:
        """The micro-batches that `step` draws where it is given none, as far as this rank reads them."""
        return [self._microbatches.draw(m) for m in range(self.plan.num_microbatches)]

    def limit_waits(self, timeout_s: float) -> None:
        """From now on other ranks may be waited for so long within a step, before they are taken for dead."""
        self._timeout_s = self._reducer.timeout_s = timeout_s
        if self._executor is not None:
            self._executor.limit_waits(timeout_s)

    def wait_for_all(self) -> None:
        """Waits until every rank is here. Raises ExecutionError as `step` does."""
        here = [self.torch_device.index] if self.torch_device.type == "cuda" else None
        wait_for_all(dist.barrier(async_op=True, device_ids=here), "a barrier", self._timeout_s, self.torch_device)

    def where(self) -> Where:
        """Where this rank is; another thread may ask."""
        action = None if self._executor is None else self._executor.current
        if self._executor is None or action is None:
            return Where(what=f"the end of step {self.steps_done}", waits=True)
        return Where(what=f"action {action} of step {self.steps_done + 1}", waits=self._executor.waits)

    def _sum(self, total: torch.Tensor, what: str) -> None:
        wait_for_all(dist.all_reduce(total, async_op=True), what, self._timeout_s, self.torch_device)

    @property
    def steps_done(self) -> int:
        """Steps so far: what dropout and drawn micro-batches depend on, besides the seed."""
        return self._context.step

    @steps_done.setter
    def steps_done(self, steps: int) -> None:
        self._context.step = steps

    def clip_grad_norm(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients of all ranks so that their norm over the whole model is at most `max_norm`.

        Called on every rank, between `step` and the optimizer's step. Returns the norm before.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.torch_device)
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and self._owner[name] == self.device:
                total += parameter.grad.detach().double().square().sum()
        self._sum(total, "the norm of gradients")
        norm = total.sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        return norm.float()

    def observe(self, recorder: Recorder | None) -> None:
        """Has the actions, messages and all-reduces of the next steps recorded."""
        self._reducer.observer = recorder
        if self._executor is not None:
            self._executor.observer = recorder
            self._executor.channel.observe(recorder)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of this rank under the model's names; a tied one under one of them."""
        for name, tensor in self._tensors.items():
            if isinstance(tensor, nn.Parameter):
                yield name, tensor

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of this rank."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers of this rank under all names that they have in the model."""
        own = {name: tensor.detach() for name, tensor in self._tensors.items()}
        return own | {alias: own[name] for alias, name in self._aliases.items() if name in own}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Copies the values of this rank's parameters and buffers from the model's state dict.

        Raises:
            InputError: a parameter is missing or has another shape.
        """
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                if name in state_dict:
                    tensor.copy_(_fitting(name, state_dict[name], tensor))
                elif isinstance(tensor, nn.Parameter):
                    raise InputError(f"the state dict has no {name!r}: give the state dict of the whole model")


def build(
    captured: CapturedModel,
    plan: Plan,
    *,
    seed: int = 0,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    make_model: Callable[[], nn.Module] | None = None,
    torch_device: torch.device | None = None,
    autocast: torch.dtype | None = None,
    one_queue_per_pair: bool = False,
    timeout_s: float = FIRST_TIMEOUT_S,
) -> Pipeline:
    """Builds this rank's part of a plan. The process group has to be there (`torch.distributed.init_process_group`).

    Args:
        captured: the model. Captured without values it takes no memory; give `state_dict` or `make_model` then.
        plan: made for this model.
        seed: of dropout, of drawn micro-batches and of the values that `make_model` gives.
        state_dict: initial values, for example a memory-mapped checkpoint of the model: only what this rank holds is
            read. Without it and `make_model` the values of `captured` are used (and shared with it, where the device is
            the same).
        make_model: makes the model. Its parameters get values on the ranks that hold them only, and these depend on the
            seed alone (`drlpp.capture.initial_values`).
        torch_device: where this rank computes; the current GPU with NCCL, else the CPU.
        autocast: element type of mixed precision, such as ``torch.bfloat16`` (`drlpp.runtime.stage.precision`).
        one_queue_per_pair: see `Channel`; so with NCCL in any case.
        timeout_s: how long other ranks are waited for within a step, before they are taken for dead. What they do
            between the steps counts too.

    Raises:
        PlanError, ScheduleError: the plan is not legal, is not for this model, or replicates a stage with a state that
            cannot be combined.
        InputError: too few processes, or no values for a parameter.
    """
    validate(plan)
    nccl = "nccl" in dist.get_backend()
    if torch_device is None:
        torch_device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    return Pipeline(
        captured if autocast is None else under_autocast(captured, autocast, torch_device),
        plan,
        seed=seed,
        state_dict=state_dict,
        make_model=make_model,
        torch_device=torch_device,
        one_queue_per_pair=nccl or one_queue_per_pair,
        timeout_s=timeout_s,
    )


class _Microbatches:
    """The micro-batches of a step; each comes to the device of this rank when it is read.

    Args:
        context: says which step it is.
        device: of this rank.

    Attributes:
        example: the inputs that this rank reads.
        given: those of this step; None: they are drawn.
    """

    def __init__(self, example: Microbatch, context: RandomContext, device: torch.device) -> None:
        self.given: Sequence[Microbatch] | None = None
        self.example = example
        self._context = context
        self._device = device

    def draw(self, microbatch: int) -> Microbatch:
        """A micro-batch, in memory from which a GPU copies while it computes."""
        drawn = draw(self.example, self._context.seed, self._context.step, microbatch)
        return {n: t.pin_memory() for n, t in drawn.items()} if self._device.type == "cuda" else drawn

    def take(self, names: Sequence[str], microbatch: int) -> Microbatch:
        """The tensors of a micro-batch that have one of the given names."""
        wanted = {n: self.example[n] for n in names if n in self.example}
        if self.given is None:
            part = draw(wanted, self._context.seed, self._context.step, microbatch)
        else:
            part = self.given[microbatch]
        return {n: part[n].to(self._device, non_blocking=True) for n in wanted}


class _Tensors:
    """A `TensorSource`: gives each parameter, buffer or constant once, on the device of this rank.

    Args:
        copy: the tensors of `state_dict` are someone else's; else they were made for this rank and taken as they are.
    """

    def __init__(
        self,
        captured: CapturedModel,
        state_dict: Mapping[str, torch.Tensor] | None,
        device: torch.device,
        *,
        copy: bool,
    ) -> None:
        self.taken: dict[str, torch.Tensor] = {}
        self._module = captured.module
        self._has_values = captured.has_values
        self._state_dict = {} if state_dict is None else state_dict
        self._names: dict[str, list[str]] = defaultdict(list)
        for alias, name in captured.aliases.items():
            self._names[name].append(alias)
        self._device = device
        self._copy = copy

    def __call__(self, name: str) -> torch.Tensor:
        if name in self.taken:
            return self.taken[name]
        own = find_tensor(self._module, name)
        given = next((self._state_dict[n] for n in (name, *self._names[name]) if n in self._state_dict), None)
        parameter = isinstance(own, nn.Parameter)
        if given is not None:
            tensor = _fitting(name, given, own).detach().to(self._device, own.dtype, copy=self._copy)
        elif parameter and not self._has_values:
            raise InputError(
                f"parameter {name!r} has no values: capture the model with values, or give make_model or a state_dict"
            )
        else:
            tensor = own.detach().to(self._device)
        if parameter:
            same = given is None and tensor.data_ptr() == own.data_ptr()
            tensor = own if same else nn.Parameter(tensor, requires_grad=own.requires_grad)
        self.taken[name] = tensor
        return tensor


def _fitting(name: str, given: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    if given.shape != own.shape:
        raise InputError(f"{name!r} of the state dict has shape {list(given.shape)}: the model's is {list(own.shape)}")
    return given


def _in_order(plan: Plan, stage: int) -> bool:
    """Whether one device runs the forward passes of a stage in the order of the micro-batches."""
    devices = plan.stages[stage].devices
    order = [a.microbatch for a in plan.schedule.get(devices[0], ()) if a.stage == stage and a.kind == "F"]
    return len(devices) == 1 and order == sorted(order)


def _decays(stage: StageModule) -> Mapping[str, float]:
    out = {}
    for name, decay in stage.changed.items():
        if decay is None:
            raise PlanError(
                f"stage {stage.index} has replicas or runs micro-batches out of order, and changes buffer {name!r} in "
                "a way that cannot be combined (batch norm and counters can): give the stage one device, in order"
            )
        out[name] = decay
    return out


def _specs(captured: CapturedModel, messages: Sequence[Message]) -> Mapping[Slot, tuple[TensorSpec, ...]]:
    spec = value_spec(captured)
    return {
        Slot(i, content): tuple(spec[name] for name in message.tensors)
        for i, message in enumerate(messages)
        for content in ("value", "gradient")
    }
