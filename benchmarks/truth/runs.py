"""Published training steps of transformers on equal GPUs: what each states of model, plan and result."""

from __future__ import annotations

import dataclasses

from drlpp.graph.blocks import Recompute
from drlpp.graph.generate.transformers import Transformer
from truth.clusters import MEGATRON_HOST_S


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A published run: the model's shape, the plan, what was measured.

    Attributes:
        layers_per_stage: empty where all stages have equally many.
        megatron: parameters of low precision, with float32 main parameters, gradients and states.
        seconds, memory_bytes, out_of_memory: 0 or None where they are not stated.
        network: bytes per second of a host, 0 for what is usual.
        host_s: seconds of the host per kernel.
        part: what else names the rows in the table.
        last_rank_tells: `memory_bytes` is that of the last rank, which writes the log, and not of the fullest.
        second_logits: the loss keeps another copy of the logits in float32.
    """

    set: str
    ref: str
    device: str
    per_host: int
    shape: Transformer
    num_microbatches: int
    pipeline: int
    chunks: int
    replicas: int
    sharded_optimizer: bool
    recompute: Recompute
    seconds: float
    memory_bytes: float
    out_of_memory: bool | None
    layers_per_stage: tuple[int, ...] = ()
    megatron: bool = True
    network: float = 0.0
    host_s: float = MEGATRON_HOST_S
    part: str = ""
    last_rank_tells: bool = False
    second_logits: bool = False

    @property
    def job(self) -> str:
        """What the plans of one job share."""
        s, samples = self.shape, self.shape.batch * self.num_microbatches
        gpus = self.pipeline * self.replicas * self.shape.tensor
        return f"{self.set} {self.device} x{gpus} {s.layers}x{s.hidden} seq {s.seq} batch {samples}"
