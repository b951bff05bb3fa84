"""What wraps a model in a recorded step, and is not the model: collectives, and the machinery of data parallelism.

DistributedDataParallel broadcasts buffers before the forward pass, and copies gradients into buckets, reduces and
copies them back in hooks of the backward pass. FullyShardedDataParallel (both of them) gathers parameters before and
scatters gradients after each unit. A plan decides anew how devices share the work, so none of it is work of an op.
"""

from __future__ import annotations

_COLLECTIVES = ("c10d::", "_c10d_functional::", "c10d_functional::", "nccl:", "gloo:", "mpi:", "ucc:", "xccl:", "hccl:")
_MACHINERY = (
    "record_param_comms",
    "torch::distributed::",
    "torch.distributed.",
    "fsdp::",
    "FSDP::",
    "FullyShardedDataParallel._",
    "DistributedDataParallel._",
    "RegisterPostBackwardFunction",
)


def wraps(name: str) -> bool:
    """Whether a call of this name, with all that is nested in it, belongs to what wraps the model."""
    return name.startswith(_COLLECTIVES) or name.startswith(_MACHINERY)
