"""Evaluates many assignments of one problem in one call of compiled code: costs, messages, schedules, simulation.

`Evaluator` packs the assignments, brings the arrays for the results, and calls this on as many threads as it has.
"""

from __future__ import annotations

from drlpp.schedules.arena import entry, mark, release, take
from drlpp.schedules.choice import choose
from drlpp.schedules.orders import BACKWARD, FORWARD
from drlpp.sim.bottleneck import write_loads
from drlpp.sim.placing import place


@entry
def evaluate_packed(arena, a, packed, begin, end, wanted, give_up_s, kind, numbers, peak, busy, order):  # type: ignore[no-untyped-def]
    """Evaluates the assignments ``begin .. end - 1`` of ``B``.

    Args:
        a, packed: `ProblemArrays`, `PackedAssignments`.
        wanted, give_up_s, order: as for `schedules.choice.choose`.
        kind: ``[B]``, for the schedule; -1 if none applies, -2 if the partition is not legal.
        numbers: ``[B, 3]``, for the seconds of an iteration, the bottleneck, and bytes over the memory of a device.
        peak, busy: ``[B, D]``, for bytes, and seconds of the iteration that a device computes.
    """
    whole = mark(arena)
    for b in range(begin, end):
        release(arena, whole)
        p, legal = place(arena, a, packed, b)
        if not legal:
            kind[b] = -2
            continue
        num_devices = len(p.used)
        mine = take(arena.reals, num_devices)[0]
        kind[b], numbers[b, 0], numbers[b, 2] = choose(arena, p, wanted, give_up_s, mine, order)
        for d in range(peak.shape[1]):
            peak[b, d] = busy[b, d] = 0.0
        for u in range(num_devices):
            peak[b, p.used[u]] = mine[u]
            busy[b, p.used[u]] = p.optimizer_s[u]
        write_loads(arena, p, mine)
        most = 0.0
        for u in range(num_devices):
            most = max(most, mine[u])
        numbers[b, 1] = most
        for s in range(len(p.slot_off) - 1):
            replicas = p.slot_off[s + 1] - p.slot_off[s]
            for r in range(min(replicas, p.num_microbatches)):
                i = p.slot_off[s] + r
                share = (p.num_microbatches - r + replicas - 1) // replicas
                busy[b, p.used[p.slot_device[i]]] += share * (p.action_s[FORWARD, i] + p.action_s[BACKWARD, i])


@entry
def loads_packed(arena, a, packed, out):  # type: ignore[no-untyped-def]
    """Writes the ``[B, D]`` loads of the devices; all of them -1 if a partition is not legal."""
    whole = mark(arena)
    for b in range(len(out)):
        release(arena, whole)
        p, legal = place(arena, a, packed, b)
        out[b] = 0.0 if legal else -1.0
        if legal:
            loads = take(arena.reals, len(p.used))[0]
            write_loads(arena, p, loads)
            for u in range(len(loads)):
                out[b, p.used[u]] = loads[u]
