"""Differential test: cut at random and run stage by stage == the plain module, for loss, gradients and buffers."""

from __future__ import annotations

import copy
from importlib.metadata import version

import numpy as np
import pytest
import torch

from capture_models import NAMES, inputs_of
from drlpp.capture import CapturedModel, capture, capture_module, load_model
from drlpp.capture.interpret import attribute, run_stages
from drlpp.capture.loss import ModelWithLoss
from drlpp.capture.sources.model_source import as_call
from drlpp.errors import CaptureError, PlanError
from drlpp.graph.stages import check_partition


def random_partition(captured: CapturedModel, num_stages: int, rng: np.random.Generator) -> list[int]:
    graph, stages = captured.graph, []
    for before in graph.predecessors:
        start = int(rng.integers(num_stages)) if stages and rng.random() < 0.3 else 0
        low = max((stages[i] for i in before), default=start)
        stages.append(min(num_stages - 1, low + int(rng.random() < num_stages / min(graph.num_ops, 40))))
    used = sorted(set(stages))
    compact = [used.index(s) for s in stages]
    check_partition(graph, np.array(compact), len(used))
    return compact


def check_against_plain(module, example, loss_fn, num_partitions: int) -> None:
    args, kwargs = as_call(example)
    plain = ModelWithLoss(copy.deepcopy(module).train(), loss_fn)
    expected = plain(*args, **kwargs)
    expected.backward()
    captured = capture_module(module, example, loss_fn)
    start = copy.deepcopy(module.state_dict())
    gradients = {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None}
    assert gradients
    for seed in range(num_partitions):
        module.load_state_dict(start)
        module.zero_grad()
        partition = random_partition(captured, 4, np.random.default_rng(seed))
        loss = run_stages(captured, partition)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=1e-7)
        for name, gradient in gradients.items():
            found = attribute(captured.module, captured.aliases.get(name, name)).grad
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        for name, buffer in plain.model.named_buffers():
            torch.testing.assert_close(dict(module.named_buffers())[name], buffer)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_random_partitions_train_like_the_plain_module(name):
    check_against_plain(*inputs_of(name), num_partitions=6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "timm:resnet10t?batch_size=2&image_size=64&num_classes=10",
        "timm:test_efficientnet?batch_size=2",
        "timm:test_vit?batch_size=2",
        "transformers:GPT2LMHeadModel?n_layer=2&n_embd=32&n_head=2&vocab_size=100&seq_len=8&resid_pdrop=0&embd_pdrop=0&attn_pdrop=0",
        "transformers:LlamaForCausalLM?num_hidden_layers=2&hidden_size=32&intermediate_size=64&num_attention_heads=4&num_key_value_heads=2&vocab_size=100&seq_len=8",
        "transformers:T5ForConditionalGeneration?num_layers=2&num_decoder_layers=2&d_model=32&d_ff=64&d_kv=8&num_heads=4&vocab_size=100&seq_len=8&dropout_rate=0",
        "transformers:MixtralForCausalLM?num_hidden_layers=1&hidden_size=32&intermediate_size=64&num_attention_heads=4&num_key_value_heads=2&vocab_size=100&seq_len=8",
    ],
    ids=lambda spec: spec.partition("?")[0],
)
def test_library_models_train_like_the_plain_module(spec):
    if "Mixtral" in spec and version("transformers").startswith("4."):
        pytest.skip("transformers 4 loops over the experts that the values choose")
    example = load_model(spec).build(device="cpu", seed=0)
    check_against_plain(example.module, example.args or dict(example.kwargs), example.loss_fn, num_partitions=2)


def test_a_model_without_values_cannot_run():
    captured = capture(load_model("timm:test_vit?batch_size=2"), device="meta")
    with pytest.raises(CaptureError, match="without values"):
        run_stages(captured, [0] * captured.graph.num_ops)


def test_an_illegal_partition_is_refused():
    captured = capture_module(*inputs_of("recurrent"))
    backwards = list(reversed(range(captured.graph.num_ops)))
    with pytest.raises(PlanError, match="before stage"):
        run_stages(captured, backwards)


def test_other_inputs_give_another_loss():
    captured = capture_module(*inputs_of("recurrent"))
    one = [0] * captured.graph.num_ops
    other = {k: v + 1.0 if v.is_floating_point() else v for k, v in captured.example_inputs.items()}
    assert run_stages(captured, one, other) != run_stages(captured, one)
