"""Operators that run the user's own Python."""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from drlpp.capture.user_call import UserCall, Written, identifier, place_of, run_body, source_digest, trial


def double(tensors: object) -> list[torch.Tensor]:
    return [2 * t for t in tensors]  # type: ignore[attr-defined]


def call(**more: object) -> UserCall:
    described = {"num_inputs": 2, "num_outputs": 2, "views": {1: 0}} | more
    return UserCall("mine", "Function Mine (a.py:3)", "mine:1", double, **described)  # type: ignore[arg-type]


def test_one_result_is_a_tensor_and_several_are_a_list() -> None:
    x = torch.ones(2)
    assert [t.tolist() for t in call()(x, x)] == [[2, 2], [2, 2]]
    assert call(num_inputs=1, num_outputs=1, views={})(x).tolist() == [2, 2]


def test_views_are_in_the_schema() -> None:
    arguments = call()._schema.arguments
    assert arguments[0].alias_info is not None
    assert not arguments[0].alias_info.is_write
    assert arguments[1].alias_info is None
    assert str(call()) == "mine:1"


def test_code_that_needs_values_is_run_on_zeros() -> None:
    def in_numpy(tensors: object) -> list[torch.Tensor]:
        (x,) = tensors  # type: ignore[misc]
        return [torch.from_numpy(x.detach().numpy()[:1] + 1)]

    with FakeTensorMode():
        x = torch.empty(3, 2)
        (result,) = run_body(in_numpy, [x])
    assert tuple(result.shape) == (1, 2)
    assert run_body(in_numpy, [torch.ones(3, 2)])[0].tolist() == [[2, 2]]


def test_names_and_places() -> None:
    assert identifier("My-Function 2") == "my_function_2"
    assert identifier("__") == "user"
    assert place_of(double).startswith("test_user_call.py:")
    assert place_of(functools.partial(double)).startswith("test_user_call.py:")
    assert place_of(3) == "int"
    assert source_digest(double) != source_digest(call)
    assert source_digest(3) == source_digest(3)


def test_a_call_is_a_node_of_a_module() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.create_node("call_function", call(num_inputs=1, num_outputs=1, views={}), (x,)))
    module = torch.fx.GraphModule(nn.Module(), graph)
    assert module(torch.ones(2)).tolist() == [2, 2]


def test_all_that_is_written_is_noted() -> None:
    mean, variance, shown, kept = torch.zeros(3), torch.ones(3), torch.zeros(3), torch.zeros(3)
    x = torch.randn(4, 3)
    with Written() as written:
        nn.functional.batch_norm(x, mean, variance, training=True)
        nn.functional.batch_norm(x, kept, torch.ones(3), training=False)
        shown.data[1:].add_(1)
    assert [written.memory_of(t) for t in (mean, variance, shown, kept, x)] == [True, True, True, False, False]


def test_a_write_past_pytorch_is_seen_by_its_value() -> None:
    def counts(tensors: object) -> list[torch.Tensor]:
        x, count = tensors  # type: ignore[misc]
        count.numpy()[0] += 1
        return [x * 2]

    assert trial(counts, [torch.ones(2), torch.zeros(1)]).changed == [1]
