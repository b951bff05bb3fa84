"""What the event simulator returns: the prediction, the trace, and how busy everything was."""

from __future__ import annotations

import dataclasses

from drlpp.plan import Plan, Prediction, Trace


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer between two devices.

    Attributes:
        message: index into the messages of the stage graph.
        gradient: it carries the gradient back, from a consumer to the producer of the message.
        resources: names of the channel or ports that it occupied, as in `Simulation.busy_s`.
        request_s, start_s, end_s, arrival_s: asked for; began to occupy; ended to occupy; usable by the receiver.
    """

    message: int
    microbatch: int
    src: int
    dst: int
    gradient: bool
    bytes: float
    resources: tuple[str, ...]
    request_s: float
    start_s: float
    end_s: float
    arrival_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """One simulated iteration.

    Attributes:
        plan: what was simulated.
        prediction: the summary that a plan file holds.
        trace: all that took time, and the memory of each device over time.
        transfers: in order of request.
        infeasible: (device, bytes over its memory) of the devices whose memory does not suffice.
        busy_s: seconds that each channel (``0->1``), port (``host a out``, ``host a in``) was occupied; idle ones are
            left out.
    """

    plan: Plan
    prediction: Prediction
    trace: Trace
    transfers: tuple[Transfer, ...]
    infeasible: tuple[tuple[int, float], ...]
    busy_s: dict[str, float]

    @property
    def feasible(self) -> bool:
        return not self.infeasible
