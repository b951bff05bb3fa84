from __future__ import annotations

import torch
from torch import nn

from drlpp.capture.sources.fake_parameters import hollow_parameters, is_hollow


def test_parameters_take_no_memory_and_keep_their_form():
    with hollow_parameters():
        layer = nn.Linear(40_000, 20_000)
    assert is_hollow(layer.weight)
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.shape == (20_000, 40_000)
    assert layer.weight.requires_grad
    assert layer.weight.device.type == "cpu"
    assert not is_hollow(nn.Linear(2, 2).weight)


def test_buffers_keep_their_values():
    with hollow_parameters():
        norm = nn.BatchNorm1d(3)
    assert norm.running_var.tolist() == [1.0, 1.0, 1.0]


def test_a_parameter_registered_twice_stays_tied():
    shared = nn.Parameter(torch.zeros(3))
    with hollow_parameters():
        module = nn.Module()
        module.a = shared
        module.b = shared
        module.c = module.a
    assert module.a is module.b is module.c


def test_constructors_that_read_values_see_zeros():
    with hollow_parameters():
        layer = nn.Linear(2, 2)
        assert not layer.weight.isnan().any()
        nn.init.trunc_normal_(layer.weight)
        assert layer.weight[0, 0].item() == 0.0


def test_dtype_can_be_changed_while_building():
    with hollow_parameters():
        layer = nn.Linear(2, 2).to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert is_hollow(layer.weight)


def test_modules_can_be_copied_while_building():
    with hollow_parameters() as construction:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        layer.twin = layer.linear1
        stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    first, second = stack.layers
    assert is_hollow(second.linear1.weight)
    assert isinstance(second.linear1.weight, nn.Parameter)
    assert second.linear1.weight is second.twin.weight
    assert second.linear1.weight is not first.linear1.weight
    assert construction.number(second.linear1.weight) == construction.number(layer.linear1.weight)
    assert len({construction.number(p) for p in stack.parameters()}) == len(list(layer.parameters()))


def test_frozen_parameters_stay_frozen():
    with hollow_parameters():
        module = nn.Module()
        module.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    assert not module.frozen.requires_grad
