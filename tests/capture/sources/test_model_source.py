from __future__ import annotations

import pytest
import torch

from drlpp.capture import load_model
from drlpp.capture.sources.model_source import (
    as_call,
    default_dtype,
    mean_square,
    parse_dtype,
    parse_options,
    parse_value,
    suggestion,
    take_int,
)
from drlpp.errors import CaptureError


def test_options():
    assert parse_options("s", "a=1&b=x") == {"a": "1", "b": "x"}
    assert parse_options("s", "") == {}


def test_malformed_options():
    with pytest.raises(CaptureError, match="key=value"):
        parse_options("s", "a")


def test_repeated_options():
    with pytest.raises(CaptureError, match="twice"):
        parse_options("s", "a=1&a=2")


def test_take_int():
    options = {"n": "3", "other": "x"}
    assert take_int("s", options, "n", 7) == 3
    assert options == {"other": "x"}
    assert take_int("s", options, "n", 7) == 7


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_take_int_refuses(text):
    with pytest.raises(CaptureError, match="whole number"):
        take_int("s", {"n": text}, "n", 1)


def test_parse_value():
    texts = ["3", "0.5", "true", "False", "none", "[1,2]", "gelu"]
    assert [parse_value(t) for t in texts] == [3, 0.5, True, False, None, [1, 2], "gelu"]


def test_dtype():
    assert parse_dtype("s", {"dtype": "bfloat16"}) is torch.bfloat16
    assert parse_dtype("s", {}) is None
    with pytest.raises(CaptureError, match="use one of float32"):
        parse_dtype("s", {"dtype": "int8"})


def test_default_dtype_is_restored():
    before = torch.get_default_dtype()
    with default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
    assert torch.get_default_dtype() == before


def test_suggestion():
    assert "'resnet50'" in suggestion("resnet5O", ["resnet50", "vit"])
    assert suggestion("zzzzzz", ["resnet50"]) == ""


def test_as_call():
    x = torch.zeros(2)
    assert as_call(x) == ((x,), {})
    assert as_call([x, 1]) == ((x, 1), {})
    assert as_call({"a": x}) == ((), {"a": x})
    with pytest.raises(CaptureError, match="type int"):
        as_call(3)  # type: ignore[arg-type]


def test_mean_square_takes_the_first_output_with_a_gradient():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    assert mean_square({"ids": torch.tensor([1]), "hidden": x}) == 5.0
    with pytest.raises(CaptureError, match="no tensor with a gradient"):
        mean_square([torch.zeros(2)])


def test_building_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    source = load_model("timm:test_vit?batch_size=2")
    first, again, other = source.build(seed=1), source.build(seed=1), source.build(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.args[0], again.args[0])
    assert torch.equal(next(first.module.parameters()), next(again.module.parameters()))
    assert not torch.equal(first.args[0], other.args[0])
