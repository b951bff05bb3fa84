"""Trains (or emulates) a plan for some steps in a process group that is there, and reports on it. All ranks call it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from drlpp.capture import CapturedModel, Example
from drlpp.capture.module_call import ModuleCall
from drlpp.capture.own_model import OwnModel
from drlpp.capture.sources.initial_values import seeded_construction
from drlpp.cluster.schema import load_cluster_file
from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.runtime.adapt.adapter import Adapter, ranks_of, with_costs_of
from drlpp.runtime.adapt.moving import moved
from drlpp.runtime.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from drlpp.runtime.emulated_world import EmulatedWorld, emulated_world
from drlpp.runtime.emulation import EmulatedPipeline
from drlpp.runtime.launch.job import AUTOCAST, RunOptions, RunReport
from drlpp.runtime.launch.user_batches import user_batches
from drlpp.runtime.observe.clock_offset import clock_offset_s
from drlpp.runtime.observe.heartbeat import Where
from drlpp.runtime.observe.recording import Record, Recorder, merge
from drlpp.runtime.observe.tensor_memory import StorageTracker
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.pipeline import Pipeline, build, used_devices
from drlpp.runtime.stage.batches import Batch, Microbatch
from drlpp.runtime.transfers.waiting import time_limit_s
from drlpp.runtime.verify.compare import TOLERANCE, compare
from drlpp.runtime.verify.reference import TrainingState, reference_run
from drlpp.units import format_time

Say = Callable[[str], None]
"""Called with one line about what goes on."""
Follow = Callable[[Callable[[], Where]], None]
"""Called with a function that says where this rank is."""
RecordLoss = Callable[[int, float], None]
"""Called on rank 0 with a step (counted from 0) and its loss."""
RecordPlan = Callable[[Plan], None]
"""Called on rank 0 with a plan that took the place of another."""


@dataclasses.dataclass(frozen=True)
class _RankResult:
    """What a rank sends to rank 0: begin and end of each step on rank 0's clock, and the rest of the report."""

    device: int | None
    spans: list[tuple[float, float]]
    losses: tuple[float, ...]
    record: Record
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
    record_plan: RecordPlan | None = None,
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
        follow, record_loss, record_plan: see there.

    Raises:
        PlanError, ScheduleError, InputError: see `drlpp.runtime.pipeline.build`.
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
        devices=ranks_of(plan, options.adapt, used_devices(plan)),
    )
    pipeline = build_more(plan, make_model=None if make_example is None else lambda: make_example().module)
    make_optimizer = optimizer_factory(plan.training.optimizer, options.learning_rate)
    optimizer = make_optimizer(list(pipeline.parameters()))
    if follow is not None:
        follow(pipeline.where)
    store = None if options.checkpoint is None else Path(options.checkpoint)
    if store is not None and (found := checkpoints(store)):
        load_checkpoint(found[-1][1], pipeline, optimizer)
    first = pipeline.steps_done
    if first >= options.steps:
        raise InputError(f"{options.checkpoint} has a checkpoint of step {first}: ask for more than {first} steps")
    if first and dist.get_rank() == 0:
        say(f"going on from the checkpoint of step {first}")
    in_use = None if tracker is None else tracker.sample
    if pipeline.torch_device.type == "cuda":
        in_use = torch.cuda.memory_allocated
    recorder = Recorder(pipeline.device, offset_s, in_use, pipeline.torch_device)
    adapter = None
    if options.adapt is not None:
        adapter = Adapter(plan, options.adapt, options, first, say, record_plan=record_plan)
    spans: list[tuple[float, float]] = []
    losses: list[float] = []
    gradients: dict[str, torch.Tensor] = {}
    longest_s = 0.0
    data = None if options.data is None else user_batches(options.data, options.seed, first)
    kept: list[Batch] = []
    for step in range(first, options.steps):
        last = step == options.steps - 1
        pipeline.observe(recorder if last or (adapter is not None and adapter.listens(step)) else None)
        if last and tracker is not None:
            tracker.add(pipeline.tensors(copies=True).values())
            tracker.add(t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))
            tracker.start()
        batch = _next_batch(data, pipeline, drawn=tracker is None)  # else the tracker is to see them come and go
        if options.verify and data is not None:
            kept.append(batch)
        pipeline.wait_for_all()
        begin = time.perf_counter()
        recorder.begin(begin)
        loss = pipeline.step(batch)
        if step == 0 and options.verify:
            mine = {n: p.grad.clone() for n, p in pipeline.named_parameters() if p.grad is not None}
            gradients = pipeline.whole(mine)
        update = recorder.now()
        optimizer.step()
        optimizer.zero_grad()
        if tracker is not None:
            tracker.stop()
        recorder.optimizer(update, recorder.now())
        losses.append(loss.item())
        end = time.perf_counter()
        spans.append((begin + offset_s, end + offset_s))
        longest_s = max(longest_s, end - begin)
        pipeline.limit_waits(time_limit_s(longest_s))
        if dist.get_rank() == 0:
            if record_loss is not None:
                record_loss(step, losses[-1])
            say(f"step {step + 1} of {options.steps}: loss {losses[-1]:.6g}, {format_time(end - begin)}")
        if store is not None and (last or (step + 1) % options.checkpoint_every == 0):
            save_checkpoint(store, pipeline, optimizer)
        if adapter is not None and (new := adapter.after(step + 1, recorder)) is not None:
            if follow is not None:
                follow(_moving)
            try:
                pipeline, optimizer = moved(
                    pipeline, optimizer, new, lambda p, values: build_more(p, state_dict=values), make_optimizer
                )
                recorder = Recorder(pipeline.device, offset_s, in_use, pipeline.torch_device)
                adapter.switched(step + 1, new)
            except InputError as error:
                adapter.refused(step + 1, str(error))
            if follow is not None:
                follow(pipeline.where)
    decisions = () if adapter is None else adapter.decisions()
    state = None
    if options.verify:
        read = {*captured.parameters, *captured.buffers}
        held = {n: t.clone().cpu() for n, t in pipeline.whole(pipeline.tensors()).items() if n in read}
        state = TrainingState(tuple(losses), {n: g.cpu() for n, g in gradients.items()}, held)
    peak = float(tracker.peak_bytes) if tracker is not None else 0.0
    if pipeline.torch_device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated())
    pipeline.observe(None)
    result = _RankResult(pipeline.device, spans, tuple(losses), recorder.record(), state, peak)
    rank, size = dist.get_rank(), dist.get_world_size()
    results: list[_RankResult] | None = [result] * size if rank == 0 else None
    dist.gather_object(result, results)
    report: list[RunReport | None] = [None]
    if results is not None:
        reference = None
        if options.verify:
            say("training the model's own module in plain PyTorch for the comparison")
            own = OwnModel(captured.call if make_example is None else _made(captured.call, make_example, options.seed))
            batches = [pipeline.shares(batch) for batch in kept] if kept else None
            reference = _reference(captured, plan, options, own, initial, pipeline.torch_device, batches)
        report[0] = dataclasses.replace(_report(captured, plan, options, results, reference), decisions=decisions)
    dist.broadcast_object_list(report)
    if report[0] is None:
        raise RuntimeError("rank 0 sent no report")
    return report[0]


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
    return emulated_world(plan.cluster, cluster, changes)


def train_emulated(plan: Plan, options: RunOptions, say: Say, *, follow: Follow | None = None) -> RunReport:
    """Emulates the plan (`drlpp.runtime.emulation`). Called on every rank; all return the same report.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
    """
    world = world_of(plan, options)
    ranks = ranks_of(plan, options.adapt, used_devices(plan))
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
        if adapter is not None and (new := adapter.after(step, pipeline.recorder)) is not None:
            pipeline.close()
            before, now = adapter.plan, with_costs_of(new, plan)
            pipeline = EmulatedPipeline(now, world, scale, devices=ranks, steps_done=step)
            pipeline.emulate_move(with_costs_of(before, plan), now)
            if follow is not None:
                follow(pipeline.where)
            adapter.switched(step, new)
    pipeline.close()
    decisions = () if adapter is None else adapter.decisions()
    result = _RankResult(pipeline.device, spans, (), pipeline.recorder.record(), None, 0.0)
    results = [result] * dist.get_world_size()
    dist.all_gather_object(results, result)
    told = [decisions]
    dist.broadcast_object_list(told)
    return RunReport(
        iteration_times_s=_that_count(_step_times(results, scale)),
        step_times_s=_step_times(results, scale),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=(),
        trace=merge([r.record for r in results], plan.cluster.num_devices, scale),
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
) -> TrainingState:
    return reference_run(
        captured,
        seed=options.seed,
        num_microbatches=plan.num_microbatches,
        steps=options.steps,
        make_optimizer=optimizer_factory(plan.training.optimizer, options.learning_rate),
        autocast=AUTOCAST[options.precision],
        state_dict=initial,
        torch_device=torch_device,
        own=own,
        batches=batches,
    )


def _report(
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    results: list[_RankResult],
    reference: TrainingState | None,
) -> RunReport:
    verification = None
    if reference is not None:
        verification = compare(
            [r.state for r in results if r.state is not None],
            reference,
            [n for n, t in reference.tensors.items() if n in set(captured.parameters)],
            adaptive=plan.training.optimizer == "adamw",
            tolerance=TOLERANCE[options.precision],
        )
    peaks = {r.device: r.peak_bytes for r in results if r.device is not None}
    tracked = any(peaks.values())
    return RunReport(
        iteration_times_s=_that_count(_step_times(results)),
        step_times_s=_step_times(results),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=results[0].losses,
        first_step=options.steps - len(results[0].losses),
        verification=verification,
        peak_memory_bytes=tuple(peaks.get(d, 0.0) for d in range(plan.cluster.num_devices)) if tracked else (),
        trace=merge([r.record for r in results], plan.cluster.num_devices),
    )
