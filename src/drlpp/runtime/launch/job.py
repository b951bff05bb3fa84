"""What a run is asked for, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from drlpp.errors import InputError
from drlpp.plan import Plan, Trace
from drlpp.runtime.adapt.decisions import Decision
from drlpp.runtime.verify.compare import Verification

Precision = Literal["fp32", "bf16"]
AUTOCAST: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""Element type of autocast by precision."""


def autocast_precision(plan: Plan) -> Precision:
    """How a run computes products at the precision of a plan.

    Raises:
        InputError: the plan is for float16 products of a float32 model, which need a loss that is scaled.
    """
    if plan.graph.dtype != "float32" or not plan.training.in_low_precision:
        return "fp32"  # a model of low precision computes in it as it is
    if plan.training.precision == "fp16":
        raise InputError(
            "the plan is for fp16, where small gradients vanish unless the loss is scaled: run it with --precision "
            "bf16, or in a loop of your own with a gradient scaler (docs/runtime.md)"
        )
    return "bf16"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Adapt:
    """How a run plans anew while it trains (`drlpp.adaptation` makes one).

    Attributes:
        command: starts the process that plans (`drlpp.runtime.adapt.proposals`).
        after_steps: steps that are measured before the first new plan.
        every: of later steps one in so many is measured.
        planning_s: seconds of a processor for the search for a plan.
        worth: what a switch gains over the steps that are left has to be so many times its cost.

    Raises:
        InputError: a number is out of range.
    """

    command: tuple[str, ...]
    after_steps: int = 5
    every: int = 2
    planning_s: float = 2.0
    worth: float = 1.2

    def __post_init__(self) -> None:
        if self.after_steps < 2 or self.every < 1:
            raise InputError(f"after_steps {self.after_steps}, every {self.every}: must be at least 2 and 1")
        if not self.planning_s > 0:
            raise InputError(f"planning_s is {self.planning_s}: it must be positive")
        if not self.worth >= 0:
            raise InputError(f"worth is {self.worth}: it must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a plan is run.

    Attributes:
        steps: optimizer steps; the first one warms up, and is left out of the measured time if there are others.
        verify: compare with single-process training.
        emulate: wait for the predicted time of each action and message instead of computing.
        emulate_cluster: file of the cluster that is emulated; None for that of the plan.
        emulate_events: file of what changes from step to step (`drlpp.runtime.emulated_world`).
        seed: of the initial parameters, the micro-batches and dropout.
        learning_rate: of the optimizer that the plan names.
        track_memory: account for the memory of tensors on the CPU (this slows the run down).
        time_scale: emulated seconds per predicted second; None chooses one.
        precision: ``bf16`` computes under autocast; parameters and their updates stay as they are.
        checkpoint: folder of checkpoints; training goes on from the last one in it. None for none.
        checkpoint_every: steps between two of them; there is always one at the end.
        data: ``FILE.py:function`` that yields batches (`drlpp.runtime.launch.user_batches`); None draws them.
        adapt: plan anew while training; None keeps the plan.

    Raises:
        InputError: a value is out of range.
    """

    steps: int = 3
    verify: bool = False
    emulate: bool = False
    emulate_cluster: str | None = None
    emulate_events: str | None = None
    seed: int = 0
    learning_rate: float = 1e-3
    track_memory: bool = False
    time_scale: float | None = None
    precision: Precision = "fp32"
    checkpoint: str | None = None
    checkpoint_every: int = 10
    data: str | None = None
    adapt: Adapt | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> RunOptions:
        """The options in what `dataclasses.asdict` gave, after a way through JSON."""
        adapt = data["adapt"]
        if adapt is not None:
            adapt = Adapt(**{**adapt, "command": tuple(adapt["command"])})
        return cls(**{**data, "adapt": adapt})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}: it must be at least 1")
        computes = self.verify or self.track_memory or self.checkpoint or self.data or self.precision != "fp32"
        if self.emulate and computes:
            raise InputError(
                "an emulated run computes nothing: leave out verify, track_memory, checkpoint, data and precision"
            )
        if (self.emulate_cluster or self.emulate_events) and not self.emulate:
            raise InputError("emulate_cluster and emulate_events say how an emulated run behaves: set emulate too")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision {self.precision!r} is not known: use one of {', '.join(get_args(Precision))}")
        if self.checkpoint_every < 1:
            raise InputError(f"checkpoint_every is {self.checkpoint_every}: it must be at least 1")
        if self.adapt is not None and self.track_memory:
            raise InputError(
                "track_memory follows the tensors of one plan, and adapt changes it: leave one of them out"
            )
        if self.verify and self.checkpoint:
            raise InputError("verification follows training from its first step: leave out the checkpoint")
        if self.time_scale is not None and not self.time_scale > 0:
            raise InputError(f"time_scale is {self.time_scale}: it must be positive")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A restart after ranks died or hung.

    Attributes:
        reason: the line that says what happened.
        step: steps of the checkpoint that training went on from; 0 for the start.
        num_devices: that the plan used from then on.
        planning_s: seconds of planning for what was left.
    """

    reason: str
    step: int
    num_devices: int
    planning_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run measured.

    Attributes:
        iteration_times_s: of each step after the first (of the first too if it is the only one): from the first rank
            that begins to the last that ends. Of an emulated run: divided by the time scale.
        step_times_s: of each step, the first one too.
        predicted_s: what the plan says, if it says something.
        losses: mean loss of each step from `first_step` on; empty for an emulated run.
        first_step: steps that were done before, by the checkpoint that training went on from.
        restarts: of an elastic run.
        decisions: of a run that adapts.
        verification: the comparison with single-process training, if asked for.
        peak_memory_bytes: per device of the cluster, 0 where nothing runs: the largest sum of the sizes of all tensors
            between two actions; empty if it was not tracked.
        trace: of the median among the last three steps; of the last one, if memory is tracked or devices are emulated.
        time_scale: emulated seconds per predicted second; 1 for a real run.
    """

    iteration_times_s: tuple[float, ...]
    step_times_s: tuple[float, ...]
    predicted_s: float | None
    losses: tuple[float, ...]
    verification: Verification | None = None
    peak_memory_bytes: tuple[float, ...] = ()
    trace: Trace
    time_scale: float = 1.0
    first_step: int = 0
    restarts: tuple[Restart, ...] = ()
    decisions: tuple[Decision, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON-ready form, without the trace."""
        verification = None if self.verification is None else dataclasses.asdict(self.verification)
        return {
            "iteration_time_s": self.iteration_time_s,
            "iteration_times_s": list(self.iteration_times_s),
            "step_times_s": list(self.step_times_s),
            "predicted_iteration_time_s": self.predicted_s,
            "losses": list(self.losses),
            "first_step": self.first_step,
            "restarts": [dataclasses.asdict(r) for r in self.restarts],
            "predictions": self._predictions(),
            "decisions": [dataclasses.asdict(d) for d in self.decisions],
            "verification": verification,
            "peak_memory_bytes": list(self.peak_memory_bytes),
            "time_scale": self.time_scale,
        }

    def _predictions(self) -> list[dict[str, Any]]:
        """What each plan was to take, from the step on (counted from 0) that it ran."""
        first = {"from_step": self.first_step, "iteration_time_s": self.predicted_s}
        took_over = {d.step for d in self.decisions if d.kind == "switched"}
        better = (d for d in self.decisions if d.kind == "switch" and d.step in took_over)
        return [first, *({"from_step": d.step, "iteration_time_s": d.best_s} for d in better)]

    @property
    def iteration_time_s(self) -> float:
        """The median of the measured steps."""
        ordered = sorted(self.iteration_times_s)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
