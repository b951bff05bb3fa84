"""`build`: one rank's part of a plan, ready to train: `Pipeline.step`, `parameters`, `state_dict`.

It fits a training loop that a person has already::

    pipeline = build(captured, plan)
    optimizer = torch.optim.AdamW(pipeline.parameters())
    for batch in batches:
        loss = pipeline.step(batch)
        optimizer.step()
        optimizer.zero_grad()
    pipeline.eval()
    logits = pipeline(x)

Every rank runs the same lines; it holds the parameters of its own stages only, under the names that they have in the
model. Rank r runs the r-th of the devices that the plan uses.
"""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import CapturedModel, initial_values
from drlpp.errors import InputError
from drlpp.plan import Plan, validate
from drlpp.plan.validation import check_trains
from drlpp.runtime.agreement import Council, Request
from drlpp.runtime.copies import Copies
from drlpp.runtime.evaluation import EvaluationResult, merged_outputs
from drlpp.runtime.held_tensors import HeldTensors, spread
from drlpp.runtime.holdings import Holdings, holdings_of, members_of, several
from drlpp.runtime.observe.heartbeat import Where
from drlpp.runtime.observe.recording import Recorder
from drlpp.runtime.optimizers import check_scaler
from drlpp.runtime.other_pipelines import Place, check_shared
from drlpp.runtime.parts import put_together
from drlpp.runtime.program_cache import ProgramCache
from drlpp.runtime.programs import EvaluationProgram, Ground, StepInput, TrainingProgram
from drlpp.runtime.sharded_states import Followers, owners
from drlpp.runtime.stage.batches import Batch, BatchLayout, Cut, Microbatch, Weights, draw, fractions
from drlpp.runtime.stage.moves import Members
from drlpp.runtime.stage.precision import under_autocast
from drlpp.runtime.stage.randomness import RandomContext
from drlpp.runtime.stage.ways import check_agreed, chosen_splits, divisible_on
from drlpp.runtime.transfers.causes import explained
from drlpp.runtime.transfers.waiting import FIRST_TIMEOUT_S, wait_for_all

if TYPE_CHECKING:  # it takes half a second to import
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

log = logging.getLogger(__name__)


class Pipeline:
    """The stages of a plan that this rank runs. Made by `build`.

    Attributes:
        plan: that it runs.
        device: of this rank in the plan's cluster; None if it runs nothing.
        torch_device: where this rank computes.
        training: False in eval mode.
    """

    def __init__(
        self,
        captured: CapturedModel,
        plan: Plan,
        *,
        seed: int,
        state_dict: Mapping[str, torch.Tensor] | None,
        make_model: Callable[[], nn.Module] | None,
        torch_device: torch.device,
        autocast: torch.dtype | None,
        one_queue_per_pair: bool,
        timeout_s: float,
        devices: Sequence[int] | None,
    ) -> None:
        self.plan = plan
        used = plan.used_devices
        ranks = used if devices is None else tuple(devices)
        if len(ranks) > dist.get_world_size():
            raise InputError(
                f"the plan uses {len(ranks)} devices, there are {dist.get_world_size()} processes: start one each"
            )
        rank = dist.get_rank()
        self.device = ranks[rank] if rank < len(ranks) and ranks[rank] in used else None
        self._rank_of = {d: r for r, d in enumerate(ranks)}
        self.torch_device = torch_device
        self.training = True
        self._told = False
        self._context = RandomContext(seed)
        self._layout = BatchLayout(captured.call, plan.num_microbatches)
        self._autocast = autocast
        self._model = captured if autocast is None else under_autocast(captured, autocast, torch_device)

        chosen = divisible_on(torch_device, chosen_splits(plan), self._model, plan)
        check_agreed(chosen, plan)
        holdings = holdings_of(self._model, plan, chosen)
        members = members_of(plan, self.device, self._rank_of)
        self._held = self._take_tensors(holdings, members, state_dict, make_model)
        if plan.training.zero1:
            shared = several({n: holdings.sums[n] for n in holdings.readers if n in set(self._model.parameters)})
            holdings = dataclasses.replace(holdings, owners=owners(shared, self._state_bytes(shared)))
        else:
            shared = several({n: holdings.copies[n] for n in holdings.readers if n in set(self._model.parameters)})
        self._ground = Ground(
            plan=plan,
            device=self.device,
            rank_of={d: self._rank_of[d] for d in used},
            torch_device=torch_device,
            context=self._context,
            held=self._held,
            holdings=holdings,
            members=members,
            chosen=chosen,
            council=Council(_host_group(), tuple(self._layout.example)),
            one_queue_per_pair=one_queue_per_pair,
        )
        if state_dict is None and make_model is None:
            check_shared(self, self._places())
        self._equalise()
        self._programs = ProgramCache(self._ground, self._model, autocast)
        self._trained = {n: self._held.taken.get(n, self._held.like(n)).requires_grad for n in self._model.parameters}
        self._planned = self._program = self._programs.planned(self._all_trained())
        self._copies = (Followers if plan.training.zero1 else Copies)(shared, self._ground)
        self._observer: Recorder | None = None
        self.limit_waits(timeout_s)

    def step(
        self,
        batch: Batch | None = None,
        *,
        weights: Weights | None = None,
        count: float | None = None,
        scaler: ShardedGradScaler | None = None,
    ) -> torch.Tensor:
        """Runs the forward and backward passes of all micro-batches; gradients are added to `.grad` of the parameters.

        In eval mode it goes forward only, and nothing changes.

        Args:
            batch: of the whole step: a dict of tensors by input name, a tuple or list of tensors in the order of the
                inputs, or a list of micro-batches. It may be smaller than the plan's (the last batch of an epoch), and
                micro-batches may be unequal. None draws one from the example inputs (`drlpp.runtime.stage.batches`).
            weights: per micro-batch, or what tells the weight of a micro-batch from its tensors (for example, its
                number of labels); the loss is the weighted mean. None: the number of samples.
            count: the loss is the plain sum over the micro-batches, divided by this number (for a loss that sums).
            scaler: its scale multiplies the gradients, against underflow of float16. The sharded one finds infinities
                on all ranks together, so that all skip a step or none does.

        Returns:
            The loss, on every rank: the mean over the micro-batches, by weight.

        Raises:
            InputError: on every rank: the batch does not fit the plan or the ranks do not agree.
            ExecutionError: another rank hangs or has died.
        """
        if not self.training:
            result = self.evaluate(batch, weights=weights, count=count, to=())
            if result.loss is None:
                raise InputError("the batch has no target, so there is no loss: give it, or call pipeline(x)")
            return result.loss
        agreed, cut, ordinary = self._agree(batch, weights, count, scaler)
        if agreed.copies:
            self._copies.attend(self._timeout_s)
        program = self._program if ordinary else self._program_of(agreed)
        if program is not self._program:
            observer = self._observer
            self.observe(None)
            self._program = program
            self.observe(observer)
        parts = fractions(self._samples(agreed, cut), agreed.weights, agreed.count)
        one = torch.ones((), device=self.torch_device)
        step = StepInput(self._taker(cut), parts, 1.0 if scaler is None else float(scaler.scale(one)))
        program.limit_waits(self._timeout_s)
        with explained():
            program.run(step, self._timeout_s)
            total = step.total(self.torch_device)
            self._sum(total, "the sum of losses")
        self._context.step += 1
        return total.float()

    def evaluate(
        self,
        batch: Batch | None = None,
        *,
        weights: Weights | None = None,
        count: float | None = None,
        to: Sequence[int] | None = None,
    ) -> EvaluationResult:
        """Loss and outputs of the model in eval mode; nothing changes, and no gradients are recorded.

        Called on every rank, in either mode.

        Args:
            batch, weights, count: as in `step`. The model is called with the inputs that are given; without the target
                (or labels) there is no loss.
            to: ranks that get the outputs; None: all.

        Raises:
            InputError, CaptureError: on every rank: the batch does not fit the plan or the model.
            ExecutionError: another rank hangs or has died.
        """
        agreed, cut, _ = self._agree(batch, weights, count, None, evaluate=True)
        if agreed.copies:
            self._copies.attend(self._timeout_s)
        samples = self._samples(agreed, cut)
        parts = fractions(samples, agreed.weights, agreed.count)
        step = StepInput(self._taker(cut), parts)
        outputs: list[Any] = []
        has_loss = False
        for first, program in self._evaluation_programs(agreed, cut):
            with explained():
                program.run(step, first, self._timeout_s)
                outputs += [(program.evaluation, leaves) for leaves in program.outputs(to)]
            has_loss = bool(program.evaluation.captured.loss)
        loss = None
        if has_loss:
            total = step.total(self.torch_device)
            self._sum(total, "the sum of losses")
            loss = total.float()
        mine = to is None or dist.get_rank() in to
        return EvaluationResult(loss, merged_outputs(outputs, samples, parts) if mine else None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the model in eval mode on a batch of any number of samples up to the plan's, on every rank.

        Args:
            args, kwargs: as the model takes them; or one batch, as `step` takes it; or nothing, to draw one.

        Raises:
            InputError: the pipeline is in training mode, or the batch does not fit the plan.
        """
        if self.training:
            raise InputError("a call gives outputs in eval mode only: call pipeline.eval() first (step trains)")
        if not kwargs:
            return self.evaluate(args[0] if len(args) == 1 else args or None).outputs
        by_position = self._layout.by_name(args, "the batch") if args else {}
        return self.evaluate({**by_position, **kwargs}).outputs

    def train(self, mode: bool = True) -> Pipeline:
        """Puts the pipeline into training mode: every sub-module in the mode in which it was captured."""
        self.training = mode
        return self

    def eval(self) -> Pipeline:
        """Puts the pipeline into eval mode: steps and calls go forward only, and change nothing."""
        return self.train(False)

    def draw(self) -> list[Microbatch]:
        """The micro-batches that `step` draws where it is given none, as far as this rank reads them."""
        return [self._drawn(sorted(self._program.inputs), m) for m in range(self.plan.num_microbatches)]

    def shares(self, batch: Batch) -> list[tuple[Microbatch, float]]:
        """The micro-batches that `step` cuts a batch into, with the share of each in the loss."""
        cut = self._layout.cut(batch)
        samples = (self._layout.samples,) * len(cut.parts) if cut.samples is None else cut.samples
        return list(zip(cut.parts, fractions(samples, None, None), strict=True))

    def agree_on(self, problem: str) -> None:
        """Raises InputError on every rank if one has a problem (empty: it has none). Called on every rank."""
        self._ground.council.check(problem)

    def limit_waits(self, timeout_s: float) -> None:
        """From now on other ranks may be waited for so long within a step, before they are taken for dead."""
        self._timeout_s = timeout_s
        self._program.limit_waits(timeout_s)

    def wait_for_all(self) -> None:
        """Waits until every rank is here. Raises ExecutionError as `step` does."""
        here = [self.torch_device.index] if self.torch_device.type == "cuda" else None
        wait_for_all(dist.barrier(async_op=True, device_ids=here), "a barrier", self._timeout_s, self.torch_device)

    def close(self) -> None:
        """Takes leave of the process groups of this pipeline, which cannot be used any more.

        Called on every rank when all have ended their last step. The threads of the groups end with the pipeline.
        """
        self._ground.close()

    def where(self) -> Where:
        """Where this rank is; another thread may ask."""
        executor = self._program.executor
        action = None if executor is None else executor.current
        if executor is None or action is None:
            return Where(what=f"the end of step {self.steps_done}", waits=True)
        return Where(what=f"action {action} of step {self.steps_done + 1}", waits=executor.waits)

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
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
            if parameter.grad is not None and self._ground.answers(name):
                total += _elements(parameter.grad).abs().double().square().sum()
        self._sum(total, "the norm of gradients")
        norm = total.sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                _elements(parameter.grad).mul_(factor.to(parameter.grad.dtype))
        return norm.float()

    def observe(self, recorder: Recorder | None) -> None:
        """Has the actions, messages and all-reduces of the next steps recorded."""
        self._observer = recorder
        self._program.reducer.observer = recorder
        if self._program.executor is not None:
            self._program.executor.observer = recorder
            self._program.executor.channel.observe(recorder)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of this rank under the model's names; a tied one under one of them.

        With ZeRO-1, those that this rank is to change; others hold copies that follow it.
        """
        for name, tensor in self._held.taken.items():
            if isinstance(tensor, nn.Parameter) and self._changes(name):
                yield name, tensor

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of this rank, as `named_parameters` gives them: for an optimizer."""
        for _, parameter in self.named_parameters():
            yield parameter

    def state_dict(self, *, gather: bool = False, rank: int | None = None) -> dict[str, torch.Tensor]:
        """The state dict of the user's module: parameters and persistent buffers under all names that they have.

        Args:
            gather: False: what this rank holds (with ZeRO-1, without copies of what others change). Where groups divide
                ops it is called on every rank, and one of a group has what they hold in parts, whole. So the ranks
                together have the state dict of the module. True: all of it, on the CPU, which the module's own
                ``load_state_dict`` takes; called on every rank.
            rank: with `gather`, the only rank that gets it (the others get an empty one); None: all do.
        """
        if gather:
            return self._held.gathered(lambda name: self._ground.whole(name, None if rank is None else [rank]))
        return self._held.state_dict(self.whole(self.tensors()) if self._ground.holdings.cuts else self.tensors())

    def tensors(self, *, copies: bool = False) -> dict[str, torch.Tensor]:
        """All that this rank holds, by name: parameters of the loss and buffers that are not persistent too.

        Args:
            copies: with those that another rank changes (ZeRO-1), which may be a step behind.
        """
        held = self._held.taken.items()
        return {name: tensor.detach() for name, tensor in held if copies or self._changes(name)}

    def whole(
        self, values: Mapping[str, torch.Tensor], parameter_of: Callable[[str], str] = lambda key: key
    ) -> dict[str, torch.Tensor]:
        """Values that go with parameters (gradients, states), whole where groups of devices hold parts of them.

        Called on every rank. What was put together is on one rank; the others get the rest of theirs.

        Args:
            values: of this rank.
            parameter_of: key -> name of the parameter.
        """
        return put_together(values, self._ground, parameter_of)

    def shape(self, name: str) -> torch.Size:
        """The shape of a tensor of the model, of which this rank may hold a part."""
        return self._held.like(name).shape

    def part(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """What this rank holds of a tensor of the model."""
        return self._held.part(name, whole)

    def holders_by_rank(self, plan: Plan) -> dict[str, tuple[int, ...]]:
        """Name of every parameter and buffer of the model -> ranks that hold it under a plan of the same devices.

        No group divides the plan's stages.
        """
        holdings = holdings_of(self._model, plan, {})
        found = {n: holdings.holders(n) for n in holdings.readers if self._held.is_own(n)}
        found |= {n: holdings.answering(n) for n in self._held.unread(holdings.readers)}
        return {n: tuple(self._rank_of[d] for d in devices) for n, devices in found.items()}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Copies the values of this rank's parameters and buffers from the model's state dict.

        Raises:
            InputError: a parameter or persistent buffer is missing or has another shape, or the model lacks a name.
        """
        self._held.load(state_dict)

    def _take_tensors(
        self,
        holdings: Holdings,
        members: Members | None,
        state_dict: Mapping[str, torch.Tensor] | None,
        make_model: Callable[[], nn.Module] | None,
    ) -> HeldTensors:
        """Takes what this rank holds: what its stages read, and what nothing reads and is at home here."""
        here = {s.index for s in self.plan.stages if self.device in s.devices}
        wanted = [name for name, stages in holdings.readers.items() if here.intersection(stages)]
        foreign = state_dict is not None
        probe = HeldTensors(self._model, None, self.torch_device, copy=False, complete=False)
        wanted += [name for name in probe.unread(holdings.readers) if self.device in holdings.answering(name)]
        if state_dict is None and make_model is not None:
            state_dict = initial_values(make_model, [n for n in wanted if n in probe.parameters], self._context.seed)

        def part(name: str, whole: torch.Tensor) -> torch.Tensor:
            cut = holdings.cuts.get(name)
            return whole if cut is None or members is None else members.part(whole, cut).clone()

        held = HeldTensors(self._model, state_dict, self.torch_device, copy=foreign, complete=foreign, part=part)
        for name in wanted:
            held.take(name)
        held.release_values()
        return held

    def _places(self) -> dict[str, tuple[torch.Tensor, Place]]:
        """Per parameter of the user's module that is read: where it is."""
        out = {}
        holdings = self._ground.holdings
        for name in holdings.readers:
            if name in self._model.parameters:
                own = self._held.like(name)
                ranks = tuple(self._ground.rank_of[d] for d in holdings.holders(name))
                own_place = own.device.type == self.torch_device.type and name not in holdings.cuts
                out[name] = own, Place(ranks, own_place, self._ground.owner_rank(name))
        return out

    def _equalise(self) -> None:
        """Copies begin equal, whatever each rank was given."""
        here = dist.get_rank()
        with torch.no_grad():
            for name, sets in self._ground.holdings.copies.items():
                mine = self._held.taken.get(name)
                ranks = [self._ground.rank_of[d] for devices in sets if self.device in devices for d in devices]
                if len(ranks) > 1 and mine is not None:
                    got = spread(mine if ranks[0] == here else None, mine, ranks[0], ranks, self.torch_device)
                    if got is not None and got is not mine:
                        mine.copy_(got)

    def _changes(self, name: str) -> bool:
        return self._ground.holdings.changes(name, self.device)

    def _state_bytes(self, names: Iterable[str]) -> Mapping[str, int]:
        """Parameter -> bytes that the states of its optimizer are in proportion to."""
        like = {n: self._held.like(n) for n in names}
        return {n: t.nbytes if t.requires_grad else 0 for n, t in like.items()}

    def _all_trained(self) -> frozenset[str]:
        return frozenset(n for n, trained in self._trained.items() if trained)

    def _agree(
        self,
        batch: Batch | None,
        weights: Weights | None,
        count: float | None,
        scaler: ShardedGradScaler | None,
        *,
        evaluate: bool = False,
    ) -> tuple[Request, Cut | None, bool]:
        """What all ranks know of the step, this rank's micro-batches, and whether it is an ordinary one."""
        cut: Cut | None = None
        mine = {n: p.requires_grad for n, p in self.named_parameters() if n in self._trained}
        try:
            if not evaluate:
                self._check_can_train(scaler)
            cut = None if batch is None else self._layout.cut(batch)
            request = self._request(cut, weights, count, mine, evaluate)
        except InputError as error:
            request = Request(mode="evaluate" if evaluate else "train", problem=str(error))
        changed = any(self._trained[n] != flag for n, flag in mine.items())
        special = evaluate or bool(request.problem) or changed or request.weights is not None or count is not None
        ordinary = not special and self._is_planned(request)
        agreed, ordinary = self._ground.council.vote(request, ordinary=ordinary, timeout_s=self._timeout_s)
        return agreed, cut, ordinary

    def _request(
        self,
        cut: Cut | None,
        weights: Weights | None,
        count: float | None,
        trained: Mapping[str, bool],
        evaluate: bool,
    ) -> Request:
        for part in () if cut is None or evaluate else cut.parts:
            if missing := sorted(self._program.inputs - set(part)):
                raise InputError(
                    f"the batch has inputs {sorted(part)}: {missing[0]!r} is missing, which this rank reads"
                )
        return Request(
            mode="evaluate" if evaluate else "train",
            given=None if cut is None and not self._program.inputs else cut is not None,
            shapes=() if cut is None else tuple({n: tuple(t.shape) for n, t in p.items()} for p in cut.parts),
            samples=None if cut is None else cut.samples,
            weights=_weights(weights, cut),
            count=count,
            trained=trained,
            digests={} if cut is None else _digests(cut),
            copies=self._copies.due(evaluates=evaluate),
        )

    def _check_can_train(self, scaler: ShardedGradScaler | None) -> None:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            raise InputError(
                "step trains, and gradients are switched off here (no_grad or inference_mode): call it outside of "
                "that, or call pipeline.eval() first to go forward only"
            )
        kept = self._model.call.numbers
        if changed := kept.changed(counters=False):
            raise InputError(
                f"{changed}, and the pipeline would train with the first value: capture and build again, or make it "
                "an input of forward"
            )
        if not self._told and (counted := kept.changed(counters=True)):
            self._told = True
            log.warning("%s: the pipeline goes on with the first value", counted)
        check_scaler(scaler)

    def _is_planned(self, request: Request) -> bool:
        """Whether a request is for the step that the plan describes, as far as this rank knows."""
        if self._program is not self._planned:
            return False
        if not request.shapes:
            return True
        example = self._layout.example
        return len(request.shapes) == self.plan.num_microbatches and all(
            shape == example[name].shape for shapes in request.shapes for name, shape in shapes.items()
        )

    def _program_of(self, agreed: Request) -> TrainingProgram:
        if any(self._trained[n] != flag for n, flag in agreed.trained.items()):
            trained = {**self._trained, **agreed.trained}
            for name in self._held.taken.keys() & agreed.trained.keys():  # copies of what another rank changes
                self._held.taken[name].requires_grad_(agreed.trained[name])
            planned = self._programs.planned(frozenset(n for n, flag in trained.items() if flag))
            self._trained, self._planned = trained, planned
        return self._programs.training(self._known_shapes(agreed), self._all_trained())

    def _evaluation_programs(self, agreed: Request, cut: Cut | None) -> list[tuple[int, EvaluationProgram]]:
        programs = self._programs.evaluations(self._known_shapes(agreed))
        missing = (
            ""
            if cut is None
            else next(
                (
                    f"the batch has inputs {sorted(cut.parts[first])}: {name!r} is missing, which this rank reads"
                    for first, program in programs
                    for name in sorted(program.inputs - set(cut.parts[first]))
                ),
                "",
            )
        )
        self._ground.council.check(missing)
        return programs

    def _known_shapes(self, agreed: Request) -> list[Mapping[str, tuple[int, ...]]]:
        """Per micro-batch, the shapes of its inputs."""
        if agreed.shapes:
            return list(agreed.shapes)
        whole = {n: tuple(t.shape) for n, t in self._layout.example.items()}
        return [whole] * self.plan.num_microbatches

    def _samples(self, agreed: Request, cut: Cut | None) -> tuple[int, ...]:
        samples = agreed.samples if agreed.samples is not None else None if cut is None else cut.samples
        number = len(agreed.shapes) or self.plan.num_microbatches
        return (self._layout.samples,) * number if samples is None else samples

    def _taker(self, cut: Cut | None) -> Callable[[Sequence[str], int], Microbatch]:
        def take(names: Sequence[str], microbatch: int) -> Microbatch:
            wanted = [n for n in names if n in self._layout.example]
            part = self._drawn(wanted, microbatch) if cut is None else cut.parts[microbatch]
            return {n: part[n].to(self.torch_device, non_blocking=True) for n in wanted}

        return take

    def _drawn(self, names: Sequence[str], microbatch: int) -> Microbatch:
        """A drawn micro-batch, in memory from which a GPU copies while it computes."""
        example = {n: self._layout.example[n] for n in names}
        context = self._context
        drawn = draw(example, context.seed, context.step, microbatch, self._layout.samples)
        return {n: t.pin_memory() for n, t in drawn.items()} if self.torch_device.type == "cuda" else drawn

    def _sum(self, total: torch.Tensor, what: str) -> None:
        wait_for_all(dist.all_reduce(total, async_op=True), what, self._timeout_s, self.torch_device)


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
    devices: Sequence[int] | None = None,
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
        devices: of each rank; None: those that the plan uses, in order.

    Raises:
        PlanError, ScheduleError: the plan is not legal, is not for this model, or replicates a stage with a state that
            cannot be combined.
        InputError: too few processes, or no values for a parameter.
    """
    validate(plan)
    check_trains(plan, "the runtime")
    nccl = "nccl" in dist.get_backend()
    if torch_device is None:
        torch_device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    return Pipeline(
        captured,
        plan,
        seed=seed,
        state_dict=state_dict,
        make_model=make_model,
        torch_device=torch_device,
        autocast=autocast,
        one_queue_per_pair=nccl or one_queue_per_pair,
        timeout_s=timeout_s,
        devices=devices,
    )


def _host_group() -> dist.ProcessGroup | None:
    """The group in which ranks agree: one whose messages do not wait for GPUs."""
    if "nccl" not in dist.get_backend():
        return None
    group = dist.new_group(backend="gloo")
    return group if isinstance(group, dist.ProcessGroup) else None


def _elements(gradient: torch.Tensor) -> torch.Tensor:
    """The elements of a gradient that are stored; changing them changes it."""
    if not gradient.is_sparse:
        return gradient
    if not gradient.is_coalesced():
        raise RuntimeError("a sparse gradient is to be coalesced first")
    return gradient._values()


def _digests(cut: Cut) -> dict[str, int]:
    """Per input, a number that tells other values (of some elements) apart; of tensors on GPUs, none."""
    out: dict[str, int] = {}
    for part in cut.parts:
        for name, tensor in part.items():
            if tensor.device.type == "cpu" and tensor.layout is torch.strided:
                flat = tensor.detach().reshape(-1)
                some = flat[:: max(1, flat.numel() // 32)].contiguous().resolve_conj().resolve_neg()
                out[name] = zlib.crc32(some.view(torch.uint8).numpy().tobytes(), out.get(name, 0))
    return out


def _weights(weights: Weights | None, cut: Cut | None) -> tuple[float, ...] | None:
    """Weights as numbers; None where this rank cannot tell them."""
    if weights is None:
        return None
    if not callable(weights):
        return tuple(float(w) for w in weights)
    try:
        return None if cut is None else tuple(float(weights(part)) for part in cut.parts)
    except KeyError:  # an input that this rank was not given
        return None
