"""GPipe and 1F1B for any DAG of stages, as wave schedules.

On a chain of p stages with one device each they are the schedules of GPipe (Huang et al., NeurIPS 2019) and of
PipeDream-Flush, called 1F1B (Narayanan et al., ICML 2021): stage i starts p - i micro-batches before its first backward
pass. On a DAG the number is the longest path from the stage to a sink, where a stage of R replicas counts R times (as
in PipeDream, SOSP 2019: that many micro-batches are in flight to keep every device busy).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drlpp.schedules.orders import BACKWARD, FORWARD, FlatSchedule, wave_schedule
from drlpp.schedules.placed import PlacedStages


class Depths(NamedTuple):
    """Longest paths in the DAG of stages, counted in devices (a stage of R replicas counts R).

    Attributes:
        from_source: ``[S]`` devices before the stage.
        to_sink: ``[S]`` devices from the stage, itself included, to the end.
    """

    from_source: NDArray[np.int64]
    to_sink: NDArray[np.int64]


def stage_depths(placed: PlacedStages) -> Depths:
    """Longest paths over all messages, whatever their phase."""
    return Depths(*_depths(placed.slot_off, placed.message_off, placed.message_backward, placed.dst_off, placed.dst))


def gpipe(placed: PlacedStages) -> FlatSchedule:
    """All forward passes, then all backward passes; every micro-batch starts as early as it can."""
    depths = stage_depths(placed)
    start = int(depths.from_source.max()) + placed.num_microbatches
    return _forward_and_backward(placed, depths.from_source, 1, start + depths.to_sink, 1)


def one_f_one_b(placed: PlacedStages) -> FlatSchedule:
    """One forward, one backward: as many micro-batches in flight as there are devices from the stage to the end."""
    to_sink = stage_depths(placed).to_sink
    longest = int(to_sink.max())
    return _forward_and_backward(placed, longest - to_sink, 2, longest - 1 + to_sink, 2)


def eager_one_f_one_b(placed: PlacedStages) -> FlatSchedule:
    """1F1B with about 1.5 times the micro-batches in flight, which hides the latency of transfers.

    Source: the eager 1F1B of Zhuang et al., "On optimizing the communication of model parallelism" (MLSys 2023).
    """
    to_sink = stage_depths(placed).to_sink
    longest = int(to_sink.max())
    return _forward_and_backward(placed, longest - 2 * to_sink, 2, longest - 1 + to_sink, 2)


def _forward_and_backward(
    placed: PlacedStages,
    forward_offset: NDArray[np.int64],
    forward_stride: int,
    backward_offset: NDArray[np.int64],
    backward_stride: int,
) -> FlatSchedule:
    """A wave schedule of F and B; where keys are equal B comes first, since it frees memory."""
    num_stages = len(placed.slot_off) - 1
    stages = np.arange(num_stages)
    return wave_schedule(
        placed,
        stage=np.concatenate([stages, stages]),
        kind=np.repeat(np.array([BACKWARD, FORWARD]), num_stages),
        offset=np.concatenate([backward_offset, forward_offset]),
        stride=np.repeat(np.array([backward_stride, forward_stride]), num_stages),
    )


@numba.njit(cache=True)
def _depths(slot_off, message_off, message_backward, dst_off, dst):  # type: ignore[no-untyped-def]
    """Messages of the forward pass go from lower to higher stages, those of the backward pass from higher to lower."""
    num_stages = len(slot_off) - 1
    from_source = np.zeros(num_stages, dtype=np.int64)
    to_sink = np.zeros(num_stages, dtype=np.int64)
    for s in range(num_stages):
        for k in range(message_off[s], message_off[s + 1]):
            if message_backward[k]:
                for j in range(dst_off[k], dst_off[k + 1]):
                    t = dst[j]
                    from_source[s] = max(from_source[s], from_source[t] + slot_off[t + 1] - slot_off[t])
        after = from_source[s] + slot_off[s + 1] - slot_off[s]
        for k in range(message_off[s], message_off[s + 1]):
            if not message_backward[k]:
                for j in range(dst_off[k], dst_off[k + 1]):
                    from_source[dst[j]] = max(from_source[dst[j]], after)
    for s in range(num_stages - 1, -1, -1):
        below = to_sink[s]  # from messages of the backward pass, whose sources are higher
        for k in range(message_off[s], message_off[s + 1]):
            if not message_backward[k]:
                for j in range(dst_off[k], dst_off[k + 1]):
                    below = max(below, to_sink[dst[j]])
        to_sink[s] = below + slot_off[s + 1] - slot_off[s]
        for k in range(message_off[s], message_off[s + 1]):
            if message_backward[k]:
                for j in range(dst_off[k], dst_off[k + 1]):
                    to_sink[dst[j]] = max(to_sink[dst[j]], to_sink[s])
    return from_source, to_sink
