"""Amounts at another micro-batch size are those of a model that was captured at that size."""

import dataclasses

import pytest
import torch
from torch import nn

from drlpp.capture import capture, capture_graph, load_model
from drlpp.capture.batch_axis import num_samples, with_batch_axis, with_samples
from drlpp.capture.sources.model_source import Example
from drlpp.errors import GraphError
from drlpp.graph.generate.synthetic import chain_graph

MODELS = [
    "timm:resnet18?batch_size=2",
    "transformers:BertForMaskedLM?num_hidden_layers=1&hidden_size=32&num_attention_heads=2&intermediate_size=64",
    "transformers:T5ForConditionalGeneration?num_layers=1&d_model=32&d_ff=64&num_heads=2&d_kv=16",
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", MODELS)
def test_a_third_size_is_predicted_from_two(spec):
    graph = capture_graph(spec, batch_axis=True)
    samples = 3 * graph.samples_per_microbatch
    assert graph.batch_axis == "linear"
    captured = capture(load_model(spec), samples=samples).graph
    scaled = graph.with_samples(samples)
    assert scaled.tensor_bytes == pytest.approx(captured.tensor_bytes)
    for ours, theirs in zip(scaled.ops, captured.ops, strict=True):
        for part in ("forward", "input_grad", "weight_grad"):
            found, wanted = getattr(ours, part), getattr(theirs, part)
            assert (found.flop, found.bytes) == pytest.approx((wanted.flop, wanted.bytes)), (ours.name, part)
        assert ours.splits == theirs.splits
    assert any(op.forward.fixed_bytes > 0 for op in graph.ops)


def example(*args: torch.Tensor, **kwargs: torch.Tensor) -> Example:
    return Example(nn.Identity(), args, kwargs, None)


def test_tensors_with_a_batch_axis_are_repeated_and_others_are_left_alone():
    table = torch.ones(7, 3)
    small = example(torch.tensor([[1.0], [2.0]]), table=table, flags=torch.tensor([True, False]))
    assert num_samples(small) == 2
    large = with_samples(small, 5)
    assert large.args[0].flatten().tolist() == [1, 2, 1, 2, 1]
    assert large.kwargs["table"] is table
    assert large.kwargs["flags"].tolist() == [True, False, True, False, True]
    assert num_samples(example(torch.tensor(1.0))) == 1


def test_other_operators_at_another_size_leave_one_size():
    graph = with_batch_axis(chain_graph(3), dataclasses.replace(chain_graph(4), samples_per_microbatch=2))
    assert graph.batch_axis == "none"
    with pytest.raises(GraphError, match="has micro-batches of 1 samples only"):
        graph.with_samples(2)


CONTRASTIVE = """
import torch

def build():
    return torch.nn.Linear(6, 6), [torch.ones(4, 6)], lambda out: (out @ out.T).log_softmax(0).diagonal().mean()
"""


def test_costs_that_grow_faster_than_the_samples_leave_one_size(tmp_path):
    """Where samples are compared with one another, the micro-batch size is part of the loss."""
    file = tmp_path / "model.py"
    file.write_text(CONTRASTIVE)
    assert capture_graph(f"{file}:build", batch_axis=True).batch_axis == "none"
