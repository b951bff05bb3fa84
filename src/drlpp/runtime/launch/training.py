"""Trains (or emulates) a plan for some steps in a process group that is there, and reports on it. All ranks call it."""

from __future__ import annotations

import dataclasses
import functools
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from drlpp.capture import CapturedModel, Example
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.own_model import OwnModel
from drlpp.capture.sources.initial_values import seeded_construction
from drlpp.cluster.schema import load_cluster_file
from drlpp.cost.groups import for_groups, lifted_events
from drlpp.errors import InputError, StoppedError
from drlpp.plan import Plan, Trace
from drlpp.runtime.adapt.adapter import Adapter, ranks_of
from drlpp.runtime.adapt.controller import with_costs_of
from drlpp.runtime.adapt.moving import moved
from drlpp.runtime.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from drlpp.runtime.emulated_world import EmulatedWorld, emulated_world
from drlpp.runtime.emulation import EmulatedPipeline
from drlpp.runtime.launch.job import AUTOCAST, RunOptions, RunReport
from drlpp.runtime.launch.signals import SIGNALS, Wishes
from drlpp.runtime.launch.user_batches import user_batches
from drlpp.runtime.observe.clock_offset import clock_offset_s
from drlpp.runtime.observe.heartbeat import Where
from drlpp.runtime.observe.recording import Record, Recorder, merge
from drlpp.runtime.observe.tensor_memory import StorageTracker
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.pipeline import Pipeline, build
from drlpp.runtime.stage.batches import Batch, Microbatch
from drlpp.runtime.transfers.waiting import time_limit_s
from drlpp.runtime.verify.compare import TOLERANCE, Verification, compare
from drlpp.runtime.verify.reference import TrainingState, reference_run
from drlpp.runtime.verify.rounding import with_rounding
from drlpp.signals import caught
from drlpp.units import format_time

TRACED = 3
"""The trace is of the median among so many steps, the last ones."""
Say = Callable[[str], None]
"""Called with one line about what goes on."""
Follow = Callable[[Callable[[], Where]], None]
"""Called with a function that says where this rank is."""
RecordLoss = Callable[[int, float], None]
"""Called on rank 0 with a step (counted from 0) and its loss."""


@dataclasses.dataclass(frozen=True)
class _RankResult:
    """What a rank sends to rank 0: begin and end of each step on rank 0's clock, and the rest of the report."""

    device: int | None
    spans: list[tuple[float, float]]
    losses: tuple[float, ...]
    records: tuple[Record, ...]
    state: TrainingState | None
    peak_bytes: float


def train_captured(
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    say: Say,
    *,
    make_example: Callable[[], Example] | None = None,
    one_queue_per_pair: bool = False,
    follow: Follow | None = None,
    record_loss: RecordLoss | None = None,
    devices: Sequence[int] | None = None,
) -> RunReport:
    """Trains the model under the plan. Called on every rank; all return the same report.

    Args:
        captured: the model; its values, if it has some, are changed.
        plan: made for this model.
        options: see there (an emulated run does not come here).
        say: called on rank 0.
        make_example: makes the user's model anew, with values from the current random state (`ModelSource.make`);
            without it the values of `captured` are trained.
        one_queue_per_pair: see `drlpp.runtime.pipeline.build`.
        follow, record_loss: see there.
        devices: of the ranks; None: in order, those that the plan uses, or all where it may come to use others.

    Raises:
        PlanError, ScheduleError, InputError: see `drlpp.runtime.pipeline.build`.
        StoppedError: a signal asked for it; there is a checkpoint.
    """
    initial: dict[str, torch.Tensor] = {}
    if options.verify and dist.get_rank() == 0 and make_example is None:
        initial = {n: t.detach().clone() for n, t in OwnModel(captured.call).tensors().items()}
    offset_s = clock_offset_s()
    tracker = StorageTracker() if options.track_memory else None
    build_more = functools.partial(
        build,
        captured,
        seed=options.seed,
        autocast=AUTOCAST[options.precision],
        one_queue_per_pair=one_queue_per_pair,
        devices=ranks_of(plan, options.adapt, plan.used_devices) if devices is None else devices,
    )
    pipeline = build_more(plan, make_model=None if make_example is None else lambda: make_example().module)
    make_optimizer = optimizer_factory(plan.training.optimizer, options.learning_rate)
    optimizer = make_optimizer(list(pipeline.parameters()))
    if follow is not None:
        follow(pipeline.where)
    _load_last_checkpoint(pipeline, optimizer, options, say)
    first = pipeline.steps_done
    training = _Training(pipeline, optimizer, options, offset_s, tracker)
    adapter = None
    if options.adapt is not None:
        adapter = Adapter(plan, options.adapt, options, first, say)
    wishes = Wishes(checkpoints=options.checkpoint is not None, device=pipeline.torch_device)
    with caught(wishes.take, signals=SIGNALS, when=options.checkpoint is not None):
        for step in range(first, options.steps):
            seconds = training.step(step, listens=adapter is not None and adapter.listens(step))
            if dist.get_rank() == 0:
                if record_loss is not None:
                    record_loss(step, training.losses[-1])
                say(f"step {step + 1} of {options.steps}: loss {training.losses[-1]:.6g}, {format_time(seconds)}")
            training.save_when_due(step, wishes.agreed(training.limit_s))
            if adapter is not None and (new := adapter.after(step + 1, training.recorder)) is not None:
                if follow is not None:
                    follow(_moving)
                try:
                    training.move_to(new, lambda p, values: build_more(p, state_dict=values), make_optimizer)
                    adapter.switched(step + 1, new)
                except InputError as error:
                    adapter.refused(step + 1, str(error))
                if follow is not None:
                    follow(training.pipeline.where)
    decisions = () if adapter is None else adapter.decisions()
    result = training.result({*captured.parameters, *captured.buffers})

    def report(results: list[_RankResult]) -> RunReport:
        made = _report(plan, options, results)
        if options.verify:
            say("training the model's own module in plain PyTorch for the comparison")
            own = OwnModel(captured.call if make_example is None else _made(captured.call, make_example, options.seed))
            batches = [training.pipeline.shares(batch) for batch in training.kept] if training.kept else None
            again = functools.partial(
                _reference, captured, plan, options, own, initial, training.pipeline.torch_device, batches
            )
            states = [r.state for r in results if r.state is not None]
            made = dataclasses.replace(made, verification=_verified(states, again, captured, plan, options, say))
        return dataclasses.replace(made, decisions=decisions)

    return _reported_by_the_first(result, report)


def _load_last_checkpoint(pipeline: Pipeline, optimizer: torch.optim.Optimizer, options: RunOptions, say: Say) -> None:
    """Goes on from the last checkpoint, if there is one. Raises InputError if no step is left to do."""
    if options.checkpoint is not None and (found := checkpoints(Path(options.checkpoint))):
        load_checkpoint(found[-1][1], pipeline, optimizer)
    first = pipeline.steps_done
    if first >= options.steps:
        raise InputError(f"{options.checkpoint} has a checkpoint of step {first}: ask for more than {first} steps")
    if first and dist.get_rank() == 0:
        say(f"going on from the checkpoint of step {first}")


class _Training:
    """The steps of one rank, and what is measured of them.

    Attributes:
        pipeline: what trains; another one after `move_to`.
        recorder: of the pipeline's steps.
        losses: of each step.
        kept: batches of the user's data, for a comparison.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        optimizer: torch.optim.Optimizer,
        options: RunOptions,
        offset_s: float,
        tracker: StorageTracker | None,
    ) -> None:
        self.pipeline = pipeline
        self._optimizer = optimizer
        self._options = options
        self._offset_s = offset_s
        self._tracker = tracker
        self._on_gpu = pipeline.torch_device.type == "cuda"
        self.recorder = self._new_recorder()
        self._data = None if options.data is None else user_batches(options.data, options.seed, pipeline.steps_done)
        self._spans: list[tuple[float, float]] = []
        self._gradients: dict[str, torch.Tensor] = {}
        self._longest_s = 0.0
        self._records: deque[Record] = deque(maxlen=TRACED)
        self.losses: list[float] = []
        self.kept: list[Batch] = []

    def _new_recorder(self) -> Recorder:
        in_use = None if self._tracker is None else self._tracker.sample
        if self._on_gpu:
            in_use = torch.cuda.memory_allocated
        return Recorder(self.pipeline.device, self._offset_s, in_use, self.pipeline.torch_device)

    def move_to(
        self,
        plan: Plan,
        build_with: Callable[[Plan, Mapping[str, torch.Tensor]], Pipeline],
        make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        """Goes on under another plan. Raises InputError if that cannot be run."""
        self.pipeline, self._optimizer = moved(self.pipeline, self._optimizer, plan, build_with, make_optimizer)
        self.recorder = self._new_recorder()
        self._records.clear()

    def step(self, number: int, *, listens: bool) -> float:
        """Does a step; the last ones, and those that `listens` says, are recorded. Returns its seconds."""
        pipeline, recorder, tracker = self.pipeline, self.recorder, self._tracker
        last = number == self._options.steps - 1
        traced = number >= self._options.steps - (1 if tracker is not None else TRACED)
        pipeline.observe(recorder if traced or listens else None)
        if last and tracker is not None:
            states = self._optimizer.state.values()
            tracker.add(pipeline.tensors(copies=True).values())
            tracker.add(t for state in states for t in state.values() if isinstance(t, torch.Tensor))
            tracker.start()
        batch = _next_batch(self._data, pipeline, drawn=tracker is None)  # else it is to be seen to come and go
        if self._options.verify and self._data is not None:
            self.kept.append(batch)
        pipeline.wait_for_all()
        begin = time.perf_counter()
        recorder.begin(begin)
        loss = pipeline.step(batch)
        if number == 0 and self._options.verify:
            mine = {n: p.grad.clone() for n, p in pipeline.named_parameters() if p.grad is not None}
            self._gradients = pipeline.whole(mine)
        update = recorder.now()
        self._optimizer.step()
        self._optimizer.zero_grad()
        if tracker is not None:
            tracker.stop()
        recorder.optimizer(update, recorder.now())
        if traced:
            self._records.append(recorder.record())
        self.losses.append(loss.item())
        end = time.perf_counter()
        self._spans.append((begin + self._offset_s, end + self._offset_s))
        self._longest_s = max(self._longest_s, end - begin)
        pipeline.limit_waits(self.limit_s)
        return end - begin

    @property
    def limit_s(self) -> float:
        """How long other ranks are waited for, after a step."""
        return time_limit_s(self._longest_s)

    def save_when_due(self, number: int, asked: signal.Signals | None) -> None:
        """A checkpoint after every so many steps, after the last, and when a signal asks for one.

        Args:
            number: of the step, counted from 0.
            asked: the signal that all ranks know of.

        Raises:
            StoppedError: the signal asks to stop, too, and there are steps left.
        """
        options, last = self._options, number == self._options.steps - 1
        due = last or asked is not None or (number + 1) % options.checkpoint_every == 0
        if options.checkpoint is not None and due:
            save_checkpoint(Path(options.checkpoint), self.pipeline, self._optimizer)
        if asked == signal.SIGTERM and not last:
            raise StoppedError(
                f"asked to stop (SIGTERM) after step {number + 1} of {options.steps}: the checkpoint is in "
                f"{options.checkpoint}, and the same command goes on from it"
            )

    def result(self, names: set[str]) -> _RankResult:
        """What this rank tells of its steps. Args: names: parameters and buffers of the model."""
        pipeline, state = self.pipeline, None
        if self._options.verify:
            held = {n: t.clone().cpu() for n, t in pipeline.whole(pipeline.tensors()).items() if n in names}
            state = TrainingState(tuple(self.losses), {n: g.cpu() for n, g in self._gradients.items()}, held)
        peak = float(self._tracker.peak_bytes) if self._tracker is not None else 0.0
        if self._on_gpu:
            peak = float(torch.cuda.max_memory_allocated())
        pipeline.observe(None)
        return _RankResult(pipeline.device, self._spans, tuple(self.losses), tuple(self._records), state, peak)


def _reported_by_the_first(result: _RankResult, report: Callable[[list[_RankResult]], RunReport]) -> RunReport:
    """The report that rank 0 makes of the results of all ranks."""
    rank, size = dist.get_rank(), dist.get_world_size()
    results: list[_RankResult] | None = [result] * size if rank == 0 else None
    dist.gather_object(result, results)
    reports: list[RunReport | None] = [None if results is None else report(results)]
    dist.broadcast_object_list(reports)
    if reports[0] is None:
        raise RuntimeError("rank 0 sent no report")
    return reports[0]


def _moving() -> Where:
    return Where(what="the move to another plan", waits=True)


def _next_batch(data: Iterator[Batch] | None, pipeline: Pipeline, *, drawn: bool) -> Batch | None:
    if data is None:
        return pipeline.draw() if drawn else None
    problem = ""
    try:
        batch = next(data)
    except InputError as error:
        batch, problem = None, str(error)
    pipeline.agree_on(problem)
    return batch


def world_of(plan: Plan, options: RunOptions) -> EmulatedWorld:
    """What an emulated run of a plan behaves like.

    Raises:
        ClusterError, InputError: a file is not what it should be.
    """
    cluster = None if options.emulate_cluster is None else load_cluster_file(Path(options.emulate_cluster))
    changes = None if options.emulate_events is None else Path(options.emulate_events)
    world = emulated_world(plan.cluster, cluster, changes)
    plan.grouping.check(world.cluster)
    return world


def train_emulated(plan: Plan, options: RunOptions, say: Say, *, follow: Follow | None = None) -> RunReport:
    """Emulates the plan (`drlpp.runtime.emulation`). Called on every rank; all return the same report.

    A group of devices behaves as one: a rank waits for all of its members.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
        ClusterError, InputError: it cannot be emulated on that cluster.
    """
    world, of_groups = world_of(plan, options), for_groups(plan)
    ranks = ranks_of(of_groups, options.adapt, of_groups.used_devices)
    pipeline = EmulatedPipeline(plan, world, options.time_scale, devices=ranks)
    if follow is not None:
        follow(pipeline.where)
    if dist.get_rank() == 0:
        say(f"emulating with seconds stretched {pipeline.time_scale:.3g} times")
    scale, spans = pipeline.time_scale, []
    adapter = None
    if options.adapt is not None:
        adapter = Adapter(plan, options.adapt, options, 0, say, time_scale=scale)
    for step in range(1, options.steps + 1):
        spans.append(pipeline.step())
        if adapter is not None:
            adapter.keep_pace(spans[-1][1] - spans[-1][0])
        if adapter is not None and (new := adapter.after(step, pipeline.recorder)) is not None:
            pipeline.close()
            before, now = adapter.plan, with_costs_of(new, plan)
            pipeline = EmulatedPipeline(now, world, scale, devices=ranks, steps_done=step)
            seconds = pipeline.emulate_move(with_costs_of(before, plan), now)
            if follow is not None:
                follow(pipeline.where)
            adapter.switched(step, new, seconds)
    pipeline.close()
    decisions = () if adapter is None else adapter.decisions()
    result = _RankResult(pipeline.device, spans, (), (pipeline.recorder.record(),), None, 0.0)
    results = [result] * dist.get_world_size()
    dist.all_gather_object(results, result)
    told = [decisions]
    dist.broadcast_object_list(told)
    return RunReport(
        iteration_times_s=_that_count(_step_times(results, scale)),
        step_times_s=_step_times(results, scale),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=(),
        trace=_of_members(_median_trace(results, of_groups, scale), plan),
        time_scale=scale,
        decisions=told[0],
    )


def _step_times(results: list[_RankResult], scale: float = 1.0) -> tuple[float, ...]:
    """Seconds of the steps, over all ranks."""
    steps = zip(*(r.spans for r in results), strict=True)
    return tuple((max(e for _, e in step) - min(b for b, _ in step)) / scale for step in steps)


def _that_count(times: tuple[float, ...]) -> tuple[float, ...]:
    """The first step warms up: it does not count if there are others."""
    return times[1:] if len(times) > 1 else times


def _made(call: ModuleCall, make_example: Callable[[], Example], seed: int) -> ModuleCall:
    """The user's module with the values that the ranks began with."""
    with seeded_construction(seed):
        example = make_example()
    return dataclasses.replace(call, module=example.module, loss_fn=example.loss_fn)


def _reference(
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    own: OwnModel,
    initial: dict[str, torch.Tensor],
    torch_device: torch.device,
    batches: Sequence[Sequence[tuple[Microbatch, float]]] | None,
    noise: float = 0.0,
) -> TrainingState:
    make_optimizer = optimizer_factory(plan.training.optimizer, options.learning_rate)
    return reference_run(
        captured,
        seed=options.seed,
        num_microbatches=plan.num_microbatches,
        steps=options.steps,
        make_optimizer=with_rounding(make_optimizer, noise, options.seed) if noise else make_optimizer,
        autocast=AUTOCAST[options.precision],
        state_dict=initial,
        torch_device=torch_device,
        own=own,
        batches=batches,
    )


def _verified(
    states: Sequence[TrainingState],
    again: Callable[..., TrainingState],
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    say: Say,
) -> Verification:
    """Compares with one process. Args: `again`: trains there, with ``noise`` in its gradients if that is given."""
    reference = again()
    compared = functools.partial(
        compare,
        reference=reference,
        parameters=[n for n, t in reference.tensors.items() if n in set(captured.parameters)],
        adaptive=plan.training.optimizer == "adamw",
        tolerance=TOLERANCE[options.precision],
    )
    found = compared(states)
    if plan.training.optimizer == "adamw" and found.values_alone:
        say("values differ where gradients do not: training once more with rounding in the gradients")
        found = found.allowing(compared([again(noise=found.rounding)]))
    return found


def _report(plan: Plan, options: RunOptions, results: list[_RankResult]) -> RunReport:
    peaks = {r.device: r.peak_bytes for r in results if r.device is not None}
    tracked = any(peaks.values())
    return RunReport(
        iteration_times_s=_that_count(_step_times(results)),
        step_times_s=_step_times(results),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=results[0].losses,
        first_step=options.steps - len(results[0].losses),
        peak_memory_bytes=tuple(peaks.get(d, 0.0) for d in range(plan.cluster.num_devices)) if tracked else (),
        trace=_median_trace(results, plan),
    )


def _of_members(trace: Trace, plan: Plan) -> Trace:
    """The trace of the devices of a plan, from that of its groups."""
    events = lifted_events(trace.events, plan.grouping)
    return dataclasses.replace(trace, num_devices=plan.cluster.num_devices, events=events)


def _median_trace(results: Sequence[_RankResult], plan: Plan, scale: float = 1.0) -> Trace:
    """The trace of the median among the recorded steps but the first one of a plan, which warms up."""
    steps = list(zip(*(r.records for r in results), strict=True))
    traces = [merge(step, plan.cluster.num_devices, scale) for step in steps]
    counting = traces[1:] if 1 < len(traces) < TRACED else traces
    return sorted(counting, key=lambda t: t.iteration_time_s)[(len(counting) - 1) // 2]
