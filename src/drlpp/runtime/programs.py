"""What one rank runs in a step: stages, messages, sums and schedule, built once for each kind of step.

A pipeline begins with the step that its plan describes. Other kinds are derived when they are asked for: fewer
micro-batches, micro-batches of other shapes, other parameters that are trained; and evaluations, which only go forward.

A step of fewer micro-batches runs the plan's schedule without the actions of the others. That cannot deadlock: actions
wait for actions of the same micro-batch and for those listed before them, and both relations are parts of the plan's,
which has no circle. An evaluation runs the forward passes of each device by (micro-batch, stage), an order in which no
action waits for a later one, whatever values the stages exchange.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import CapturedModel
from drlpp.capture.parameter_hooks import has_hooks
from drlpp.capture.variants import Evaluation
from drlpp.errors import InputError, PlanError, ScheduleError
from drlpp.graph import Split
from drlpp.graph.blocks import Recompute, block_of_op
from drlpp.graph.stages import Message
from drlpp.plan import Action, Plan, Schedule
from drlpp.runtime.agreement import Council
from drlpp.runtime.executor import Executor, StageCompute, Tensors
from drlpp.runtime.held_tensors import HeldTensors, spread
from drlpp.runtime.holdings import Holdings
from drlpp.runtime.stage.batches import Microbatch
from drlpp.runtime.stage.compute import TorchStage
from drlpp.runtime.stage.division import GroupDivision, Ways, local_shape
from drlpp.runtime.stage.moves import Members, joined
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.stage_module import (
    StageModule,
    cut_stage,
    find_tensor,
    later_stages,
    parameter_readers,
    sparse_parameters,
    stage_of_node,
    value_messages,
    value_spec,
    values_with_gradient,
)
from drlpp.runtime.stage.ways import ways_of
from drlpp.runtime.transfers.channel import Channel, TensorSpec
from drlpp.runtime.transfers.planned import Slot, StageSlots, logical_times, plan_transfers, stage_slots
from drlpp.runtime.transfers.reduction import (
    CombinedBuffers,
    GradientReducer,
    Holders,
    new_groups,
    shared_parameters,
)

Take = Callable[[Sequence[str], int], Microbatch]
"""Names of inputs and a micro-batch -> its tensors, on the device of this rank."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ground:
    """What all programs of a rank share.

    Attributes:
        plan: of the pipeline.
        device: of this rank in the plan's cluster; None if it runs nothing.
        rank_of: device -> rank.
        torch_device: where this rank computes.
        context: of the random ops.
        held: parameters and buffers.
        holdings: who holds which tensor, or part of it.
        members: of the group of this rank; None if it is alone.
        chosen: op -> split, of the ops that groups divide.
        council: of all ranks.
        one_queue_per_pair: see `Channel`.
        groups: process groups that were made so far.
    """

    plan: Plan
    device: int | None
    rank_of: Mapping[int, int]
    torch_device: torch.device
    context: RandomContext
    held: HeldTensors
    holdings: Holdings
    members: Members | None
    chosen: Mapping[str, Split]
    council: Council
    one_queue_per_pair: bool
    groups: dict[Holders, dist.ProcessGroup | None] = dataclasses.field(default_factory=dict)

    def make_groups(self, sets: Sequence[Holders]) -> Mapping[Holders, dist.ProcessGroup]:
        """The process groups of some sets of devices; called on every rank with the same sets."""
        missing = [s for s in sets if s not in self.groups]
        made = new_groups(missing, self.rank_of)
        self.groups.update({s: made.get(s) for s in missing})
        return {s: g for s in sets if (g := self.groups[s]) is not None}

    def close(self) -> None:
        """Takes leave of all process groups but that of all ranks; called on every rank."""
        mine = [g for g in self.groups.values() if g is not None]
        if self.members is not None and self.members.group is not None:
            mine.append(self.members.group)
        for group in mine:
            dist.destroy_process_group(group)
        self.groups.clear()
        self.council.close()

    def answers(self, name: str) -> bool:
        """Whether this rank answers for a tensor, or a part of it."""
        return self.device in self.holdings.answering(name)

    def leads(self) -> bool:
        """Whether this rank speaks for its group."""
        return self.holdings.place(self.device) == 0

    def whole(self, name: str, to: Sequence[int] | None) -> torch.Tensor | None:
        """A tensor of the model, put together from its parts, on the ranks of `to` (None: on all).

        Called on every rank. Others get None.
        """
        cut, like = self.holdings.cuts.get(name), self.held.like(name)
        devices = self.holdings.answering(name)
        shape = local_shape(like.shape, cut, len(devices))
        parts = []
        for device in devices:
            mine = self.held.taken[name].detach() if device == self.device else None
            empty = torch.empty(shape, dtype=like.dtype, device="meta")
            got = spread(mine, empty, self.rank_of[device], to, self.torch_device)
            parts += [] if got is None else [got]
        if len(parts) < len(devices):
            return None
        return parts[0] if cut is None else joined(parts, cut)

    def division(self, captured: CapturedModel, *, trains: bool) -> GroupDivision | None:
        """How this rank's group runs a form of the model; None if the rank is alone. An evaluation is not divided."""
        if self.members is None:
            return None
        ways = ways_of(captured, self.plan, self.chosen) if trains else Ways({}, {})
        cuts = {name: cut for name, cut in self.holdings.cuts.items() if name in self.held.taken}
        return GroupDivision(self.members, ways, cuts, self.holdings.partial)

    def owner_rank(self, name: str) -> int | None:
        """The only rank that changes a parameter of this one; None if all do that sum its gradient."""
        owner = self.holdings.owners.get((name, self.holdings.summed_with(name, self.device)))
        return None if owner is None else self.rank_of[owner]

    def limit_waits(self, timeout_s: float) -> None:
        """From now on the other members of the group may be waited for so long."""
        if self.members is not None:
            self.members.timeout_s = timeout_s

    def stages_here(self, plan: Plan) -> list[int]:
        """The stages that this rank runs."""
        return [s.index for s in plan.stages if self.device in s.devices]


@dataclasses.dataclass
class StepInput:
    """What a step computes on.

    Attributes:
        take: gives the micro-batches.
        fractions: per micro-batch, what its loss is multiplied by in the loss of the step.
        scale: what gradients are multiplied by besides, against underflow of float16.
        losses: micro-batch -> loss, of those that were computed here.
    """

    take: Take
    fractions: Sequence[float]
    scale: float = 1.0
    losses: dict[int, torch.Tensor] = dataclasses.field(default_factory=dict)

    def total(self, device: torch.device) -> torch.Tensor:
        """This rank's part of the loss of the step."""
        total = torch.zeros((), dtype=torch.float64, device=device)
        for m, loss in self.losses.items():
            if self.fractions[m]:
                total += loss.double() * self.fractions[m]
        return total


class Current:
    """The step that is computed now, for the stages that compute it."""

    def __init__(self) -> None:
        self._steps: list[StepInput] = []
        self.first = 0

    @contextmanager
    def of(self, step: StepInput, first: int = 0) -> Iterator[None]:
        """Within it stages work on `step`, whose micro-batch `first` is their first."""
        self.first = first
        self._steps.append(step)
        try:
            yield
        finally:
            self._steps.pop()

    @property
    def step(self) -> StepInput:
        """The step that is computed."""
        return self._steps[-1]

    def take(self, names: Sequence[str], microbatch: int) -> Microbatch:
        """The inputs of a micro-batch."""
        return self.step.take(names, self.first + microbatch)

    def loss_gradient(self, microbatch: int) -> float:
        """The gradient of the loss of a micro-batch."""
        return self.step.fractions[microbatch] * self.step.scale

    def report_loss(self, microbatch: int, loss: torch.Tensor) -> None:
        """Takes the loss of a micro-batch."""
        self.step.losses[self.first + microbatch] = loss


class TrainingProgram:
    """A step of training.

    Args:
        ground: see there.
        forms: per micro-batch of the step, the model captured with its shapes.
        trained: names of the trained parameters.

    Attributes:
        executor: of this rank; None if it runs nothing.
        reducer: of its gradients.
        inputs: names of the inputs that it reads.

    Raises:
        InputError: nothing is trained.
        PlanError: a stage changes its state in a way that its replicas cannot combine, or one that a group of
            devices divides computes blocks again.
    """

    def __init__(self, ground: Ground, forms: Sequence[CapturedModel], trained: frozenset[str]) -> None:
        plan = cut_down(ground.plan, len(forms))
        self._ground = ground
        again = blocks_again(plan)
        base = forms[0]
        self._current = Current()
        stage_of = stage_of_node(base, plan)
        if base.loss not in values_with_gradient(base, trained):
            raise InputError("no parameter that the loss depends on is trained: set requires_grad of one")
        messages = value_messages(base, stage_of, trained)
        try:
            transfers = plan_transfers(plan, messages)
        except ScheduleError:  # parameters are trained that were frozen when the plan was made
            plan = reordered(plan)
            transfers = plan_transfers(plan, messages)
        here = ground.stages_here(plan)
        cut = {
            id(form): _cut(ground, form, stage_of, here, again) for form in {id(form): form for form in forms}.values()
        }
        stages = cut[id(base)]
        self.inputs = frozenset(n for stage in stages.values() for n in stage.inputs if n in base.example_inputs)
        sharing = parameter_readers(base, stage_of, trained)
        alike = {s.index: ground.holdings.positions([s.index]) for s in plan.stages}
        sets = {h for found in (*(ground.holdings.sums[n] for n in sharing), *alike.values()) for h in found}
        combined = {s: stage for s, stage in stages.items() if stage.changed and not _in_order(plan, s)}
        problems = [_changed_state(plan, stage) for stage in stages.values()]
        hooked = {name: stages for name, stages in sharing.items() if has_hooks(ground.held.like(name))}
        problems += [_cut_hook(name, stages, ground.holdings) for name, stages in hooked.items()]
        ground.council.check(next(filter(None, problems), ""), PlanError)
        groups = ground.make_groups(sorted(h for h in sets if len(h) > 1))
        self._combined = {
            s: CombinedBuffers(
                stage.module, _decays(stage), len(forms), groups.get(alike[s][ground.holdings.place(ground.device)])
            )
            for s, stage in combined.items()
        }
        times = logical_times(plan, transfers)
        sets_here = {name: ground.holdings.summed_with(name, ground.device) for name in sharing}
        shared = shared_parameters(plan, ground.device, sharing, sets_here, times, ground.held.taken)
        sparse = sparse_parameters(base)
        shared = [dataclasses.replace(s, sparse=s.name in sparse, owner=ground.owner_rank(s.name)) for s in shared]
        self.reducer = GradientReducer(shared, groups)
        slots = stage_slots(messages, plan.num_stages)
        computes: dict[int, StageCompute] = {
            s: TorchStage(
                [cut[id(form)][s] for form in forms],
                slots[s],
                messages,
                loss=base.loss,
                loss_gradient=self._current.loss_gradient,
                recompute=plan.stages[s].settings.recompute == Recompute.STAGE,
                context=ground.context,
                microbatch=functools.partial(self._current.take, stage.inputs),
                report_loss=self._current.report_loss if ground.leads() else _nothing_reported,
                combined_buffers=self._combined.get(s),
            )
            for s, stage in stages.items()
        }
        self.executor = _executor(ground, plan, messages, forms, computes, self.reducer.after_action)

    def run(self, step: StepInput, timeout_s: float) -> None:
        """Runs all micro-batches; gradients are added to `.grad`, losses to those of `step`."""
        with self._current.of(step):
            self.reducer.begin()
            if self.executor is not None:
                self.executor.run()
            self.reducer.finish()
            for shared in self._combined.values():
                shared.finish(timeout_s)
            if self.executor is not None:
                self.executor.finish()

    def limit_waits(self, timeout_s: float) -> None:
        """From now on other ranks may be waited for so long."""
        self._ground.limit_waits(timeout_s)
        self.reducer.timeout_s = timeout_s
        if self.executor is not None:
            self.executor.limit_waits(timeout_s)


class EvaluationProgram:
    """Forward passes in eval mode of micro-batches of equal shapes.

    Args:
        ground: see there.
        evaluation: the model in eval mode.
        num_microbatches: that are run.

    Raises:
        InputError: a stage with replicas changes a buffer in eval mode.
    """

    def __init__(self, ground: Ground, evaluation: Evaluation, num_microbatches: int) -> None:
        captured = evaluation.captured
        self.evaluation = evaluation
        self.num_microbatches = num_microbatches
        self._ground = ground
        self._stage_of = later_stages(captured, ground.holdings.readers)
        self._plan = forward_only(ground.plan, num_microbatches)
        self._current = Current()
        self._values: dict[tuple[str, int], torch.Tensor] = {}
        wanted = {name for name in evaluation.leaves if name is not None}
        messages = value_messages(captured, self._stage_of, frozenset())
        self._borrowed: dict[str, torch.Tensor] = {}
        source = ground.held.source(captured, self._borrowed)
        division = ground.division(captured, trains=False)
        stages = {
            s: cut_stage(
                captured, self._stage_of, s, source, ground.context, ground.torch_device, wanted, division=division
            )
            for s in ground.stages_here(self._plan)
        }
        problems = [
            f"in eval mode stage {s} changes {next(iter(stage.changed))!r}, and its replicas would each change it in "
            "another way: give the stage one device"
            for s, stage in stages.items()
            if stage.changed and self._plan.stages[s].num_replicas > 1
        ]
        ground.council.check(next(iter(problems), ""), InputError)
        self.inputs = frozenset(n for stage in stages.values() for n in stage.inputs if n in captured.example_inputs)
        slots = stage_slots(messages, self._plan.num_stages)
        computes: dict[int, StageCompute] = {
            s: _ForwardStage(stage, slots[s], messages, self._current, ground.context, self._values)
            for s, stage in stages.items()
        }
        forms = [captured] * num_microbatches
        self._executor = _executor(ground, self._plan, messages, forms, computes, _nothing_follows)
        self._users = self._users_of_borrowed(captured)

    def run(self, step: StepInput, first: int, timeout_s: float) -> None:
        """Runs micro-batches `first` and following of an evaluation; losses are added to those of `step`."""
        self._values.clear()
        self._ground.limit_waits(timeout_s)
        for name, users in self._users.items():
            self._borrow(name, users)
        if self._executor is not None:
            self._executor.limit_waits(timeout_s)
            with torch.no_grad(), self._current.of(step, first):
                self._executor.run()
            self._executor.finish()
        loss = self.evaluation.captured.loss
        if self._ground.leads():
            step.losses.update({first + m: value for (name, m), value in self._values.items() if name == loss})

    def outputs(self, to: Sequence[int] | None) -> list[dict[str, torch.Tensor]]:
        """Per micro-batch, the leaves of the output by name, on the ranks of `to` (None: on all); then lets go of them.

        Called on every rank.
        """
        spec = value_spec(self.evaluation.captured)
        out: list[dict[str, torch.Tensor]] = []
        for m in range(self.num_microbatches):
            found = {}
            for name in dict.fromkeys(n for n in self.evaluation.leaves if n is not None):
                device = self._plan.stages[self._stage_of[name]].device(m)
                like = torch.empty(spec[name].shape, dtype=spec[name].dtype, device="meta")
                mine = self._values.get((name, m)) if device == self._ground.device else None
                got = spread(mine, like, self._ground.rank_of[device], to, self._ground.torch_device)
                if got is not None:
                    found[name] = got
            out.append(found)
        self._values.clear()
        return out

    def _users_of_borrowed(self, captured: CapturedModel) -> Mapping[str, list[int]]:
        """Name -> ranks that read it and do not hold it, of all ranks, in one order."""
        told: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(told, sorted(self._borrowed))
        names = sorted({name for names in told for name in names})
        return {name: [r for r, theirs in enumerate(told) if name in theirs] for name in names}

    def _borrow(self, name: str, users: list[int]) -> None:
        got = self._ground.whole(name, users)
        if got is not None and dist.get_rank() in users:
            with torch.no_grad():
                self._borrowed[name].copy_(got)


class _ForwardStage:
    """A `StageCompute` that only goes forward.

    Args:
        stage: the module.
        slots, messages: what it exchanges with other stages.
        current: gives the micro-batches.
        context: of the random ops.
        results: (name, micro-batch) -> value, which is filled.
    """

    def __init__(
        self,
        stage: StageModule,
        slots: StageSlots,
        messages: Sequence[Message],
        current: Current,
        context: RandomContext,
        results: dict[tuple[str, int], torch.Tensor],
    ) -> None:
        self._stage = stage
        self._current = current
        self._context = context
        self._results = results
        names = [m.tensors for m in messages]
        reads = slots.forward_reads
        self._place = {n: (k, i) for k, slot in enumerate(reads) for i, n in enumerate(names[slot.message])}
        self._sent = [names[slot.message] for slot in slots.forward_writes]

    def forward(self, microbatch: int, values: Sequence[Tensors]) -> Sequence[Tensors]:
        """F. See `StageCompute`."""
        given = self._current.take([n for n in self._stage.inputs if n not in self._place], microbatch)
        received = {n: values[k][i] for n, (k, i) in self._place.items()}
        inputs = [received[n] if n in received else given[n] for n in self._stage.inputs]
        inputs = [x.clone() if i in self._stage.changed_inputs else x for i, x in enumerate(inputs)]
        self._context.microbatch = self._current.first + microbatch
        made = dict(zip(self._stage.outputs, self._stage.module.forward(*inputs), strict=True))
        self._results.update({(name, microbatch): value for name, value in made.items()})
        return [[made[n] for n in names] for names in self._sent]

    def backward(self, microbatch: int, inputs: Sequence[Tensors], *, weights: bool) -> Sequence[Tensors]:
        """Raises RuntimeError: an evaluation has no backward passes."""
        raise RuntimeError("an evaluation has no backward passes")

    def weight_gradients(self, microbatch: int) -> None:
        """Raises RuntimeError: an evaluation has no backward passes."""
        raise RuntimeError("an evaluation has no backward passes")


def cut_down(plan: Plan, num_microbatches: int) -> Plan:
    """The plan for a step of its first micro-batches only."""
    if num_microbatches == plan.num_microbatches:
        return plan
    schedule = {d: tuple(a for a in actions if a.microbatch < num_microbatches) for d, actions in plan.schedule.items()}
    return _with_schedule(plan, num_microbatches, schedule)


def reordered(plan: Plan) -> Plan:
    """The plan with a schedule for gradients between all stages, with no more micro-batches in flight than it has.

    Micro-batch by micro-batch, forward passes by stage and backward passes by stage the other way: no action waits for
    a later one in this order, whatever gradients the stages exchange.
    """
    flying = max(_in_flight(actions) for actions in plan.schedule.values())
    order: dict[int, list[Action]] = {d: [] for d in sorted(plan.schedule)}
    for t in range(plan.num_microbatches + flying):
        if t >= flying:
            for stage in reversed(plan.stages):
                for d in stage.group(t - flying):
                    order[d].append(Action(stage.index, "B", t - flying))
        if t < plan.num_microbatches:
            for stage in plan.stages:
                for d in stage.group(t):
                    order[d].append(Action(stage.index, "F", t))
    return _with_schedule(plan, plan.num_microbatches, {d: tuple(actions) for d, actions in order.items()})


def _in_flight(actions: Sequence[Action]) -> int:
    """The most micro-batches that one stage of a device has begun and not ended at the same time."""
    now: dict[int, int] = {}
    most = 1
    for action in actions:
        if action.kind in "FBW":
            now[action.stage] = now.get(action.stage, 0) + (1 if action.kind == "F" else -1)
            most = max(most, now[action.stage])
    return most


def forward_only(plan: Plan, num_microbatches: int) -> Plan:
    """The plan's stages and devices with a schedule of forward passes, by (micro-batch, stage)."""
    order = [(m, stage) for m in range(num_microbatches) for stage in plan.stages]
    schedule = {
        d: tuple(Action(stage.index, "F", m) for m, stage in order if d in stage.group(m)) for d in plan.used_devices
    }
    return _with_schedule(plan, num_microbatches, schedule)


def _with_schedule(plan: Plan, num_microbatches: int, schedule: Schedule) -> Plan:
    training = dataclasses.replace(plan.training, num_microbatches=num_microbatches)
    return dataclasses.replace(plan, training=training, schedule=schedule, prediction=None)


def _executor(
    ground: Ground,
    plan: Plan,
    messages: Sequence[Message],
    forms: Sequence[CapturedModel],
    computes: Mapping[int, StageCompute],
    after_action: Callable[[int], None],
) -> Executor | None:
    if ground.device is None:
        return None
    transfers = plan_transfers(plan, messages)
    by_form = {id(form): _specs(form, messages) for form in {id(form): form for form in forms}.values()}
    channel = Channel(
        ground.device,
        transfers,
        [by_form[id(form)] for form in forms],
        ground.rank_of,
        ground.torch_device,
        ground.one_queue_per_pair,
    )
    channel.connect()
    return Executor(plan, ground.device, messages, transfers, channel, computes, after_action)


def _specs(captured: CapturedModel, messages: Sequence[Message]) -> Mapping[Slot, tuple[TensorSpec, ...]]:
    spec = value_spec(captured)
    return {
        Slot(i, content): tuple(spec[name] for name in message.tensors)
        for i, message in enumerate(messages)
        for content in ("value", "gradient")
    }


def _cut(
    ground: Ground, form: CapturedModel, stage_of: Mapping[str, int], stages: Sequence[int], again: Mapping[str, str]
) -> Mapping[int, StageModule]:
    """The modules of some stages, in one form; `again` as in `cut_stage`."""
    source, division = ground.held.source(form, {}), ground.division(form, trains=True)
    return {
        s: cut_stage(form, stage_of, s, source, ground.context, ground.torch_device, division=division, again=again)
        for s in stages
    }


def _nothing_reported(_microbatch: int, _loss: torch.Tensor) -> None:
    """The first member of a group reports the loss."""


def _nothing_follows(_index: int) -> None:
    """An evaluation has no gradients to sum."""


def _in_order(plan: Plan, stage: int) -> bool:
    """Whether one device runs the forward passes of a stage in the order of the micro-batches."""
    first = plan.stages[stage].device(0)
    order = [a.microbatch for a in plan.schedule.get(first, ()) if a.stage == stage and a.kind == "F"]
    return plan.stages[stage].num_replicas == 1 and order == sorted(order)


def _cut_hook(name: str, stages: Sequence[int], holdings: Holdings) -> str:
    """What is wrong with a parameter that has a gradient hook; empty if nothing is."""
    if name in holdings.cuts or name in holdings.partial:
        return (
            f"parameter {name!r} has a gradient hook, and the devices of a group divide its readers: the hook would "
            "see a part of the gradient; plan without tensor parallelism, or do without the hook"
        )
    if len(stages) < 2:
        return ""
    return (
        f"parameter {name!r} has a gradient hook, and stages {stages[0]} and {stages[1]} read it: the hook would see "
        "parts of the gradient; put its readers into one stage, or do without the hook"
    )


def blocks_again(plan: Plan) -> Mapping[str, str]:
    """Name of an op's node -> the path of its block, in the stages that compute blocks again.

    Raises:
        PlanError: a group of devices divides such a stage.
    """
    stages = [s for s in plan.stages if s.settings.recompute == Recompute.BLOCK]
    for stage in stages:
        if stage.sharding.tensor > 1:
            raise PlanError(
                f"stage {stage.index} has recompute 'block' and tensor {stage.sharding.tensor}, which `drlpp run` "
                "cannot do together: give it true (the whole stage computes again) or false, or tensor 1"
            )
    if not stages:
        return {}
    chosen, stage_of_op, paths = {s.index for s in stages}, plan.stage_of_op, block_of_op(plan.graph)
    return {node: paths[i] for node, i in plan.graph.member_index.items() if int(stage_of_op[i]) in chosen and paths[i]}


def _changed_state(plan: Plan, stage: StageModule) -> str:
    """Why a stage cannot run where the plan has it, because of what it changes in its forward pass; empty if it can."""
    s = stage.index
    parameters = [n for n in stage.changed if isinstance(find_tensor(stage.module, n), nn.Parameter)]
    if parameters and (plan.stages[s].settings.recompute or not _in_order(plan, s)):
        return (
            f"stage {s} changes parameter {parameters[0]!r} in its forward pass, and has replicas, recomputes or runs "
            "micro-batches out of order: give the stage one device, in order and without recomputation"
        )
    odd = [n for n, decay in stage.changed.items() if decay is None]
    if odd and not _in_order(plan, s):
        return (
            f"stage {s} has replicas or runs micro-batches out of order, and changes buffer {odd[0]!r} in "
            "a way that cannot be combined (batch norm and counters can): give the stage one device, in order"
        )
    return ""


def _decays(stage: StageModule) -> Mapping[str, float]:
    return {name: decay for name, decay in stage.changed.items() if decay is not None}
