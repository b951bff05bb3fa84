from __future__ import annotations

import time

import pytest
import torch

from capture_models import NAMES, inputs_of
from drlpp.capture import capture, capture_module, load_model
from drlpp.errors import CaptureError
from drlpp.graph import graph_from_dict, graph_hash, graph_to_dict


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "timm:test_efficientnet?batch_size=2",
        "transformers:T5ForConditionalGeneration?num_layers=1&num_decoder_layers=1&d_model=32&vocab_size=64&seq_len=8",
    ],
)
def test_with_and_without_values_give_the_same_graph(spec):
    hollow, real = (capture(load_model(spec), device=device) for device in ("meta", "cpu"))
    assert graph_hash(hollow.graph) == graph_hash(real.graph)
    assert dict(hollow.op_of_node) == dict(real.op_of_node)
    assert hollow.inputs == real.inputs
    assert hollow.loss == real.loss
    assert hollow.no_grad == real.no_grad
    assert (hollow.has_values, real.has_values) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_published_fits_together(name):
    captured = capture_module(*inputs_of(name), source="here")
    nodes = {n.name: n for n in captured.module.graph.nodes}
    assert captured.graph.source == "here"
    assert captured.has_values
    assert [nodes[i].op for i in captured.inputs] == ["placeholder"] * len(captured.inputs)
    assert set(captured.example_inputs) == set(captured.inputs)
    assert nodes[captured.loss].meta["val"].shape == ()
    read = {n.target for n in nodes.values() if n.op == "get_attr"}
    assert read == set(captured.parameters) | set(captured.buffers)
    assert set(captured.graph.param_bytes) == set(captured.parameters)
    assert not set(captured.aliases) & read
    assert graph_hash(graph_from_dict(graph_to_dict(captured.graph))) == graph_hash(captured.graph)
    assert captured.graph.member_index[captured.loss] == captured.graph.num_ops - 1
    assert all(
        op.output_bytes > 0 for op, after in zip(captured.graph.ops, captured.graph.successors, strict=True) if after
    )


def test_tensors_on_edges_are_named_after_nodes():
    captured = capture_module(*inputs_of("recurrent"))
    for edge in captured.graph.edges:
        assert captured.op_of_node[edge.tensor] == edge.src


def test_the_example_is_one_micro_batch():
    captured = capture(load_model("timm:test_vit?batch_size=3"))
    assert captured.graph.samples_per_microbatch == 3
    assert captured.graph.source == "timm:test_vit?batch_size=3"
    assert captured.graph.name == "test_vit"
    assert captured.inputs == ("x", "target")


def test_a_module_on_the_meta_device():
    with torch.device("meta"):
        module, _, loss_fn = inputs_of("branchy")
    inputs = (torch.empty(4, 3, 8, 8, device="meta"), torch.empty(4, dtype=torch.long, device="meta"))
    captured = capture_module(module, inputs, loss_fn)
    assert not captured.has_values
    assert sum(op.forward.flop for op in captured.graph.ops) > 0


def test_inputs_of_the_wrong_type():
    module, _, _ = inputs_of("branchy")
    with pytest.raises(CaptureError, match="type str"):
        capture_module(module, "x")


@pytest.mark.slow
def test_a_large_model_needs_neither_memory_nor_minutes():
    spec = (
        "transformers:LlamaForCausalLM?num_hidden_layers=4&hidden_size=8192&intermediate_size=28672&vocab_size=128256"
        "&num_attention_heads=64&num_key_value_heads=8&max_position_embeddings=8192"
        "&batch_size=1&seq_len=4096&dtype=bfloat16"
    )
    start = time.perf_counter()
    graph = capture(load_model(spec)).graph
    assert time.perf_counter() - start < 60
    params = sum(graph.param_bytes.values()) / 2
    assert params == pytest.approx(4 * 855.6e6 + 2 * 128256 * 8192, rel=0.01)
    attention = 4 * 4 * 4096 * 4096 * 8192
    dense = 2 * 4096 * (params - 128256 * 8192)
    assert sum(op.forward.flop for op in graph.ops) == pytest.approx(dense + attention, rel=0.01)
