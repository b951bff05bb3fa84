"""Trains (or emulates) a plan for some steps in a process group that is there, and reports on it. All ranks call it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from drlpp.capture import CapturedModel
from drlpp.errors import InputError
from drlpp.plan import Action, Plan, Trace
from drlpp.runtime.clock import clock_offset_s
from drlpp.runtime.emulation import EmulatedPipeline
from drlpp.runtime.executor import Observer
from drlpp.runtime.memory import StorageTracker
from drlpp.runtime.optimizers import optimizer_factory
from drlpp.runtime.pipeline import build
from drlpp.runtime.recording import Recorder, merge
from drlpp.runtime.reference import TrainingState, reference_run
from drlpp.runtime.verify import Verification, compare
from drlpp.units import format_time

Say = Callable[[str], None]
"""Called with one line about what goes on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a plan is run.

    Attributes:
        steps: optimizer steps; the first one warms up, and is left out of the measured time if there are others.
        verify: compare with single-process training.
        emulate: wait for the predicted time of each action and message instead of computing.
        seed: of the initial parameters, the micro-batches and dropout.
        learning_rate: of the optimizer that the plan names.
        track_memory: account for the memory of tensors on the CPU (this slows the run down).
        time_scale: emulated seconds per predicted second; None chooses one.

    Raises:
        InputError: a value is out of range.
    """

    steps: int = 3
    verify: bool = False
    emulate: bool = False
    seed: int = 0
    learning_rate: float = 1e-3
    track_memory: bool = False
    time_scale: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}: it must be at least 1")
        if self.emulate and (self.verify or self.track_memory):
            raise InputError("an emulated run computes nothing: leave out verify and track_memory")
        if self.time_scale is not None and not self.time_scale > 0:
            raise InputError(f"time_scale is {self.time_scale}: it must be positive")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run measured.

    Attributes:
        iteration_times_s: of each step after the first (of the first too if it is the only one): from the first rank
            that begins to the last that ends. Of an emulated run: divided by the time scale.
        predicted_s: what the plan says, if it says something.
        losses: mean loss of each step; empty for an emulated run.
        verification: the comparison with single-process training, if asked for.
        peak_memory_bytes: per device of the cluster, 0 where nothing runs: the largest sum of the sizes of all tensors
            between two actions; empty if it was not tracked.
        trace: of the last step.
        time_scale: emulated seconds per predicted second; 1 for a real run.
    """

    iteration_times_s: tuple[float, ...]
    predicted_s: float | None
    losses: tuple[float, ...]
    verification: Verification | None = None
    peak_memory_bytes: tuple[float, ...] = ()
    trace: Trace
    time_scale: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form, without the trace."""
        verification = None if self.verification is None else dataclasses.asdict(self.verification)
        return {
            "iteration_time_s": self.iteration_time_s,
            "iteration_times_s": list(self.iteration_times_s),
            "predicted_iteration_time_s": self.predicted_s,
            "losses": list(self.losses),
            "verification": verification,
            "peak_memory_bytes": list(self.peak_memory_bytes),
            "time_scale": self.time_scale,
        }

    @property
    def iteration_time_s(self) -> float:
        """The median of the measured steps."""
        ordered = sorted(self.iteration_times_s)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclasses.dataclass(frozen=True)
class _RankResult:
    """What a rank sends to rank 0: begin and end of each step on rank 0's clock, and the rest of the report."""

    device: int | None
    spans: list[tuple[float, float]]
    losses: tuple[float, ...]
    recorder: Recorder
    state: TrainingState | None
    peak_bytes: float


def train_captured(
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    say: Say,
    *,
    one_queue_per_pair: bool | None = None,
) -> RunReport:
    """Trains the model under the plan. Called on every rank; all return the same report.

    Args:
        captured: with values; they are changed.
        plan: made for this model.
        options: see there (an emulated run does not come here).
        say: called on rank 0.
        one_queue_per_pair: see `drlpp.runtime.pipeline.build`.

    Raises:
        PlanError, ScheduleError, InputError: see `drlpp.runtime.pipeline.build`.
    """
    initial = None
    if options.verify and dist.get_rank() == 0:
        initial = {n: t.detach().clone() for n, t in _tensors(captured).items()}
    offset_s = clock_offset_s()
    tracker = StorageTracker() if options.track_memory else None
    pipeline = build(captured, plan, seed=options.seed, one_queue_per_pair=one_queue_per_pair)
    make_optimizer = optimizer_factory(plan.training.optimizer, options.learning_rate)
    optimizer = make_optimizer(list(pipeline.parameters()))
    recorder = Recorder(pipeline.device, offset_s)
    spans: list[tuple[float, float]] = []
    losses: list[float] = []
    gradients: dict[str, torch.Tensor] = {}
    for step in range(options.steps):
        last = step == options.steps - 1
        if last:
            pipeline.observe(_observer(recorder, tracker))
        if last and tracker is not None:
            tracker.add(pipeline.state_dict().values())
            tracker.add(t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))
            tracker.start()
        dist.barrier()
        begin = time.perf_counter()
        recorder.begin(begin)
        loss = pipeline.step()
        if step == 0 and options.verify:
            gradients = {n: p.grad.clone() for n, p in pipeline.named_parameters() if p.grad is not None}
        update = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        if tracker is not None:
            tracker.stop()
        losses.append(loss.item())
        end = time.perf_counter()
        recorder.optimizer(update, end)
        spans.append((begin + offset_s, end + offset_s))
        if dist.get_rank() == 0:
            say(f"step {step + 1} of {options.steps}: loss {losses[-1]:.6g}, {format_time(end - begin)}")
    state = None
    if options.verify:
        held = {n: t.detach().clone().cpu() for n, t in pipeline.state_dict().items() if n not in captured.aliases}
        state = TrainingState(tuple(losses), {n: g.cpu() for n, g in gradients.items()}, held)
    peak = float(tracker.peak_bytes) if tracker is not None else 0.0
    if pipeline.torch_device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated())
    result = _RankResult(pipeline.device, spans, tuple(losses), recorder, state, peak)
    rank, size = dist.get_rank(), dist.get_world_size()
    results: list[_RankResult] | None = [result] * size if rank == 0 else None
    dist.gather_object(result, results)
    report: list[RunReport | None] = [None]
    if results is not None:
        if options.verify:
            say("training the same model on one process for the comparison")
        report[0] = _report(captured, plan, options, results, initial)
    dist.broadcast_object_list(report)
    if report[0] is None:
        raise RuntimeError("rank 0 sent no report")
    return report[0]


def train_emulated(plan: Plan, options: RunOptions, say: Say) -> RunReport:
    """Emulates the plan (`drlpp.runtime.emulation`). Called on every rank; all return the same report.

    Raises:
        PlanError, ScheduleError: the plan is not legal.
    """
    pipeline = EmulatedPipeline(plan, options.time_scale)
    if dist.get_rank() == 0:
        say(f"emulating with seconds stretched {pipeline.time_scale:.3g} times")
    spans = [pipeline.step() for _ in range(options.steps)]
    pipeline.close()
    result = _RankResult(pipeline.device, spans, (), pipeline.recorder, None, 0.0)
    results = [result] * dist.get_world_size()
    dist.all_gather_object(results, result)
    scale = pipeline.time_scale
    return RunReport(
        iteration_times_s=tuple(t / scale for t in _measured(results, options.steps)),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=(),
        trace=merge([r.recorder for r in results], plan.cluster.num_devices, scale),
        time_scale=scale,
    )


def _measured(results: list[_RankResult], steps: int) -> list[float]:
    """Seconds of the steps that count, over all ranks."""
    times = [
        max(e for _, e in step) - min(b for b, _ in step) for step in zip(*(r.spans for r in results), strict=True)
    ]
    return times[1:] if steps > 1 else times


def _observer(recorder: Recorder, tracker: StorageTracker | None) -> Observer:
    def observe(action: Action, begin_s: float, end_s: float) -> None:
        recorder.action(action, begin_s, end_s)
        if tracker is not None:
            tracker.sample()

    return observe


def _report(
    captured: CapturedModel,
    plan: Plan,
    options: RunOptions,
    results: list[_RankResult],
    initial: dict[str, torch.Tensor] | None,
) -> RunReport:
    verification = None
    if initial is not None:
        with torch.no_grad():
            for name, tensor in _tensors(captured).items():
                tensor.copy_(initial[name])
                tensor.grad = None
        reference = reference_run(
            captured,
            seed=options.seed,
            num_microbatches=plan.num_microbatches,
            steps=options.steps,
            make_optimizer=optimizer_factory(plan.training.optimizer, options.learning_rate),
        )
        verification = compare(
            [r.state for r in results if r.state is not None],
            reference,
            [n for n, t in reference.tensors.items() if n in set(captured.parameters)],
            adaptive=plan.training.optimizer == "adamw",
        )
    peaks = {r.device: r.peak_bytes for r in results if r.device is not None}
    tracked = any(peaks.values())
    return RunReport(
        iteration_times_s=tuple(_measured(results, options.steps)),
        predicted_s=None if plan.prediction is None else plan.prediction.iteration_time_s,
        losses=results[0].losses,
        verification=verification,
        peak_memory_bytes=tuple(peaks.get(d, 0.0) for d in range(plan.cluster.num_devices)) if tracked else (),
        trace=merge([r.recorder for r in results], plan.cluster.num_devices),
    )


def _tensors(captured: CapturedModel) -> dict[str, torch.Tensor]:
    return dict(captured.module.named_parameters()) | dict(captured.module.named_buffers())
