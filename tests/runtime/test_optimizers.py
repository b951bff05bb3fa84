"""Optimizers by their names."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from drlpp.errors import InputError
from drlpp.runtime.optimizers import MOMENTUM, check_scaler, optimizer_factory


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("sgd", torch.optim.SGD, 0), ("momentum", torch.optim.SGD, MOMENTUM), ("adamw", torch.optim.AdamW, None)],
)
def test_each_name_is_an_optimizer(name, kind, momentum):
    optimizer = optimizer_factory(name, 0.25)([nn.Parameter(torch.ones(2))])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0].get("momentum") == momentum


def test_a_rank_may_have_no_parameters():
    optimizer_factory("adamw", 0.1)([]).step()


def test_a_scaler_that_lets_each_rank_decide_is_refused():
    check_scaler(None)
    check_scaler(ShardedGradScaler("cpu"))
    with pytest.raises(InputError, match=r"scaler is a torch.amp.grad_scaler.GradScaler, which lets each rank decide"):
        check_scaler(torch.amp.GradScaler("cpu"))
