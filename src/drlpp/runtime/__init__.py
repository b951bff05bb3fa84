"""Executes plans on torch.distributed: any legal plan trains a model to the same result as one process.

`run` takes a plan and does everything; `build` gives one rank's part of it for a training loop of your own. See
docs/runtime.md. Left out: processes that span machines are started by torchrun; with NCCL, single ranks have run on a
GPU, and several have not.
"""

from drlpp.runtime.checkpoint import load_checkpoint, save_checkpoint
from drlpp.runtime.launch.elastic import Elastic, Replan
from drlpp.runtime.launch.job import Restart, RunOptions, RunReport
from drlpp.runtime.launch.run import run
from drlpp.runtime.pipeline import Pipeline, build
from drlpp.runtime.verify.compare import Difference, Verification, compare
from drlpp.runtime.verify.reference import TrainingState, reference_run

__all__ = [
    "Difference",
    "Elastic",
    "Pipeline",
    "Replan",
    "Restart",
    "RunOptions",
    "RunReport",
    "TrainingState",
    "Verification",
    "build",
    "compare",
    "load_checkpoint",
    "reference_run",
    "run",
    "save_checkpoint",
]
