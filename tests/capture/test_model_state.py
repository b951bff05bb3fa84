"""Tensors of a module: their names, and what cannot be captured."""

import pytest
import torch
from torch import nn

from drlpp.capture.model_state import check_constants, check_kinds, check_memory, module_tensors, state_keys
from drlpp.errors import CaptureError


def tied():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    return module


def test_a_tied_parameter_has_its_first_name():
    module = tied()
    assert list(module_tensors(module)) == ["0.weight", "0.bias", "1.bias"]
    assert state_keys(module)["1.weight"] == "0.weight"
    check_memory(module, None)


def test_two_parameters_in_one_memory_are_refused():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = nn.Parameter(module[0].weight.detach())
    with pytest.raises(CaptureError, match="'0.weight' and '1.weight' are two tensors with the same memory"):
        check_memory(module, None)


def test_parts_that_cannot_be_looked_into_are_refused():
    with pytest.raises(CaptureError, match="has no shape yet"):
        check_kinds(nn.Sequential(nn.LazyLinear(2)))
    check_kinds(tied())


def test_constants_that_show_a_parameter_are_refused():
    module = tied()
    check_constants({"c": torch.ones(2)}, module, None)
    with pytest.raises(CaptureError, match="the memory of parameter '0.weight' through another tensor"):
        check_constants({"c": module[0].weight.detach().view(-1)}, module, None)


@pytest.mark.parametrize("name", ["graph", "code", "recompile", "meta", "_graph", "_code"])
def test_names_that_torch_fx_keeps_are_refused(name):
    module = nn.Module()
    module.add_module(name, nn.Linear(2, 2))
    with pytest.raises(CaptureError, match=f"'{name}.weight' begins with a name that torch.fx keeps"):
        check_memory(module, None)
    inner = nn.Module()
    inner.add_module("inner", module)
    check_memory(inner, None)
