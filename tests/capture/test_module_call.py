"""The call of a module, with other tensors in the places of the example's."""

import torch
from torch import nn

from drlpp.capture.module_call import ModuleCall, entries_of
from drlpp.capture.python_state import NumbersKept

X, Y, Z = torch.zeros(1), torch.ones(2), torch.ones(3)


def call_of(*args, names, **kwargs):
    return ModuleCall(nn.Identity(), None, entries_of(args, kwargs, names), {}, NumbersKept(), {})


def test_inputs_are_the_tensors_by_name():
    call = call_of(X, (Y, 7), names=["x", "pair.0", "pair.1", "z"], z=Z)
    assert list(call.inputs) == ["x", "pair.0", "z"]
    assert call.inputs["z"] is Z


def test_other_tensors_take_their_places_and_constants_stay():
    call = call_of(X, (Y, 7), names=["x", "pair.0", "pair.1", "z"], z=Z)
    args, kwargs = call.arguments({"x": Z, "pair.0": X})
    assert args[0] is Z
    assert args[1][0] is X
    assert args[1][1] == 7
    assert kwargs == {}  # no tensor of z was given
