"""The simulator: predicted time and memory of a plan.

Semantics (two implementations agree on them: `sim.simulator` is the readable one, `schedules.replay` the fast one):

1. Events are handled in the order ``(time, priority, sequence)``. The end of an action has priority 0 and the device
   as its sequence number; the request of an all-reduce has priority 1 and the number of its gradient group.
2. A device has one compute stream that runs its list of actions in order. An action starts when the one before it has
   ended and all of its inputs have arrived.
3. F(s, m) needs every forward message of stage s and micro-batch m. When F(s, m) ends, each message of s is sent once
   to every *other* device that holds a consuming stage for m; consumers on the same device have it at once.
4. B(s, m), or I(s, m), needs the gradient of every message of s that requires one, from each device that received
   it: when all consumers on that device have run B or I for m, one message of the same bytes goes back. Messages of
   the backward phase (imported graphs) flow after B or I of their source and are needed by B or I of their receivers.
   When a backward action ends, the stage's own backward messages are requested first, then the gradients that it
   returns. W needs nothing but the I before it.
5. Transfers overlap with compute. Inside a host there is one channel per ordered pair of devices. Between hosts a
   transfer occupies the port of the sending host (outward) and of the receiving host (inward), first come first
   served by time of request, for bytes / min(bandwidth of the ports). It arrives the latency after that. A message that
   carries its own time takes that time on the channel of its pair of devices, and nothing else.
6. Micro-batch m of a stage with R replicas runs on replica m mod R. When all replicas have ended their last backward
   action, their gradients are all-reduced (`cost.all_reduce_s`); parameters that stages on several devices share are
   all-reduced over all of these devices, once. A device takes part in one all-reduce at a time; one that spans hosts
   occupies both directions of their ports. All-reduces overlap with the remaining compute.
7. The optimizer step of a device starts when its actions and its all-reduces have ended. The iteration ends with the
   last device.
8. A stage that recomputes runs its forward pass again as the first part of B (or I); one that recomputes its repeated
   blocks (`graph.blocks`) that of the ops in blocks only.
9. Memory of a device: parameters and optimizer state of its stages all the time, the gradients of a stage from the end
   of its first backward pass on (in a replica without micro-batches always), and for each micro-batch in flight the
   stage's activations, from the start of F to the end of B, or of W: I frees nothing. A stage that recomputes holds
   only what it received, and all of its activations during B (or from the start of I to the end of W). With blocks it
   holds what enters a block and what ops outside save, and during B the largest block beside it. What a stage
   receives from one on the same device counts once, up to B or I, since the other keeps it for longer, unless that one
   recomputes. Buffers of messages (`cost.schedule_memory`): what the two actions after the current one read from other
   devices is there already; gradients that B or I reads are there until it ends; and of the gradients that a stage
   returns to other devices, the last two are kept. Memory depends on the order of a device's actions only.

Left out: gradients that wait for a stage on the same device; a tensor that two stages of a device receive from a third
(it counts twice); temporary memory inside an action, memory of the framework; contention of transfers with compute, of
flows inside a host, and in switches; protocol start-up (rendezvous), stragglers and jitter; overlap of an all-reduce
with the backward passes of its own stage (buckets); input loading. Ports are served first come first served, where real
flows share them.
"""

from drlpp.cost.incremental_loads import IncrementalBottleneck
from drlpp.sim.evaluator import Evaluation, Evaluator
from drlpp.sim.explain import Change, CriticalStep, Explanation, explain
from drlpp.sim.simulation import Simulation, Transfer
from drlpp.sim.simulator import simulate

__all__ = [
    "Change",
    "CriticalStep",
    "Evaluation",
    "Evaluator",
    "Explanation",
    "IncrementalBottleneck",
    "Simulation",
    "Transfer",
    "explain",
    "simulate",
]
