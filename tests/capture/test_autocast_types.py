"""The rule of types equals what autocast gives when the graph runs on tensors without values."""

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.capture.autocast_types import low_nodes
from drlpp.runtime.stage.precision import under_autocast

SMALL = "num_hidden_layers=1&hidden_size=32&num_attention_heads=2&intermediate_size=64&seq_len=16"
MODELS = ["timm:resnet18?batch_size=2&image_size=64", f"transformers:LlamaForCausalLM?{SMALL}"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", MODELS)
def test_equals_autocast(spec):
    """These models have none of the operators (norms of layers, powers) that autocast treats otherwise on CPUs."""
    captured = capture(load_model(spec))
    run = under_autocast(captured, torch.bfloat16, torch.device("cpu")).module
    tensors = {n.name: n.meta["val"] for n in run.graph.nodes if n.op == "call_function"}
    wanted = {name for name, t in tensors.items() if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16}
    assert low_nodes(captured.module, captured.no_autocast) == wanted


def test_a_region_without_autocast_keeps_the_types_of_its_inputs():
    captured = capture(load_model(MODELS[0]))
    names = frozenset(n.name for n in captured.module.graph.nodes)
    assert low_nodes(captured.module, names) == set()


@pytest.mark.slow
def test_low_tensors_are_noted_for_float32_models_only():
    assert "conv2d" in capture(load_model(MODELS[0])).graph.low_tensors
    assert capture(load_model(f"{MODELS[0]}&dtype=bfloat16")).graph.low_tensors is None
