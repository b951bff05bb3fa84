"""GPipe and 1F1B for any DAG of stages, as wave schedules.

On a chain of p stages with one device each they are the schedules of GPipe (Huang et al., NeurIPS 2019) and of
PipeDream-Flush, called 1F1B (Narayanan et al., ICML 2021): stage i starts p - i micro-batches before its first backward
pass. On a DAG the number is the longest path from the stage to a sink, where a stage of R replicas counts R times (as
in PipeDream, SOSP 2019: that many micro-batches are in flight to keep every device busy).
"""

from __future__ import annotations

from drlpp.schedules.arena import filled, kernel, take
from drlpp.schedules.orders import BACKWARD, FORWARD, wave


@kernel
def depths(arena, p):  # type: ignore[no-untyped-def]
    """Longest paths in the DAG of stages, counted in devices (a stage of R replicas counts R).

    Over all messages: those of the forward pass go from lower to higher stages, those of the backward pass from higher
    to lower.

    Returns:
        ``[S]`` devices before the stage; ``[S]`` devices from the stage, itself included, to the end.
    """
    num_stages = len(p.slot_off) - 1
    from_source = filled(arena.ints, num_stages, 0)[0]
    to_sink = filled(arena.ints, num_stages, 0)[0]
    for s in range(num_stages):
        for k in range(p.message_off[s], p.message_off[s + 1]):
            if p.message_backward[k]:
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    t = p.dst[j]
                    from_source[s] = max(from_source[s], from_source[t] + p.slot_off[t + 1] - p.slot_off[t])
        after = from_source[s] + p.slot_off[s + 1] - p.slot_off[s]
        for k in range(p.message_off[s], p.message_off[s + 1]):
            if not p.message_backward[k]:
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    t = p.dst[j]
                    from_source[t] = max(from_source[t], after)
    for s in range(num_stages - 1, -1, -1):
        below = to_sink[s]  # from messages of the backward pass, whose sources are higher
        for k in range(p.message_off[s], p.message_off[s + 1]):
            if not p.message_backward[k]:
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    below = max(below, to_sink[p.dst[j]])
        to_sink[s] = below + p.slot_off[s + 1] - p.slot_off[s]
        for k in range(p.message_off[s], p.message_off[s + 1]):
            if p.message_backward[k]:
                for j in range(p.dst_off[k], p.dst_off[k + 1]):
                    t = p.dst[j]
                    to_sink[t] = max(to_sink[t], to_sink[s])
    return from_source, to_sink


@kernel
def gpipe(arena, p, from_source, to_sink):  # type: ignore[no-untyped-def]
    """All forward passes, then all backward passes; every micro-batch starts as early as it can (see `depths`)."""
    kind, offset, stride = _forward_and_backward(arena, len(to_sink))
    longest = 0
    for s in range(len(to_sink)):
        longest = max(longest, from_source[s])
    for s in range(len(to_sink)):
        offset[s] = longest + p.num_microbatches + to_sink[s]
        offset[len(to_sink) + s] = from_source[s]
        stride[s] = stride[len(to_sink) + s] = 1
    return wave(arena, p, kind, offset, stride)


@kernel
def one_f_one_b(arena, p, to_sink, eagerness):  # type: ignore[no-untyped-def]
    """One forward, one backward: as many micro-batches in flight as there are devices from the stage to the end.

    With an `eagerness` of 2 instead of 1 there are about 1.5 times as many, which hides the latency of transfers
    (the eager 1F1B of Zhuang et al., "On optimizing the communication of model parallelism", MLSys 2023).
    """
    kind, offset, stride = _forward_and_backward(arena, len(to_sink))
    longest = 0
    for s in range(len(to_sink)):
        longest = max(longest, to_sink[s])
    for s in range(len(to_sink)):
        offset[s] = longest - 1 + to_sink[s]
        offset[len(to_sink) + s] = longest - eagerness * to_sink[s]
        stride[s] = stride[len(to_sink) + s] = 2
    return wave(arena, p, kind, offset, stride)


@kernel
def _forward_and_backward(arena, num_stages):  # type: ignore[no-untyped-def]
    """Rows of B and F; where keys are equal B comes first, since it frees memory."""
    kind = filled(arena.ints, 2 * num_stages, BACKWARD)[0]
    for s in range(num_stages):
        kind[num_stages + s] = FORWARD
    return kind, take(arena.ints, 2 * num_stages)[0], take(arena.ints, 2 * num_stages)[0]
