"""Peak memory of a schedule, and the part of it that is buffers of messages.

Memory depends on the order of a device's actions and not on their times. The semantics are those of `drlpp.sim`; the
measuring is compiled (src/native/cost/schedule_memory.h), and `sim.simulator` does it readably.

A receive is posted `LOOKAHEAD` actions before the action that reads it, and its buffer exists from then on. A replica
keeps a gradient that it sent until a later message acknowledges it; we charge `RETURNS_KEPT` such gradients per
replica. Values that were sent are no buffers of their own, since the stage keeps them for its backward pass anyway. So
does a stage whose consumer is on the same device: there they count once, until the consumer's I if its backward pass is
split. The gradients of a stage exist from the end of its first backward pass (B or I) on, in a replica without
micro-batches always.

Where replicas make it depend on the micro-batch who the other side is, the first micro-batch of each replica decides.
"""

from __future__ import annotations

RETURNS_KEPT = 2
"""Gradients of a stage that were returned to other devices and are still kept."""
