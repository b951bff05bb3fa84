"""What the ranks of the pool import: they are forked from a process that has done it for all of them.

Nothing here computes a gradient: autograd refuses to work in a process that was forked after that.
"""

from __future__ import annotations

import torch
import torch.distributed.checkpoint.state_dict_loader
import torch.distributed.checkpoint.state_dict_saver
import torch.export

import plan_cases  # noqa: F401
from transformer_models import TRANSFORMERS

torch.set_num_threads(1)  # a process with threads cannot be forked
for make in TRANSFORMERS.values():
    make()
torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
