"""What a run that adapts decided, and why: the record of it."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision, or what led to one.

    Attributes:
        step: steps that were done by then.
        kind: ``change``: a device or link takes other seconds for good; ``keep`` and ``switch``: what became of a new
            plan; ``switched``: the move is done; ``refused``: the runtime cannot run the plan; ``failed``: none came.
        text: one line for people.
        measured_s: seconds of a step as the last steps had it.
        predicted_s: the same as predicted with measured costs.
        best_s: of the best plan that was found, predicted.
        gain_s: of the switch over the steps that are left, predicted.
        cost_s: of the switch, predicted; of ``switched``, measured.
        planning_s: seconds that calibrating and planning took beside the training.
        num_stages, devices: of the plan that is switched to.
    """

    step: int
    kind: Literal["change", "keep", "switch", "switched", "refused", "failed"]
    text: str
    measured_s: float | None = None
    predicted_s: float | None = None
    best_s: float | None = None
    gain_s: float | None = None
    cost_s: float | None = None
    planning_s: float | None = None
    num_stages: int | None = None
    devices: tuple[int, ...] = ()
