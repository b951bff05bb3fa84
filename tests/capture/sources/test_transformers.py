from __future__ import annotations

import sys

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.errors import CaptureError

SMALL_BERT = "num_hidden_layers=1&hidden_size=32&num_attention_heads=2&intermediate_size=64&vocab_size=100"


def test_options_reach_the_configuration_and_the_inputs():
    example = load_model(f"transformers:BertForMaskedLM?{SMALL_BERT}&batch_size=3&seq_len=9").build(device="meta")
    assert example.kwargs["input_ids"].shape == (3, 9)
    assert example.module.config.num_hidden_layers == 1
    assert example.loss_fn is None


def test_nested_fields():
    spec = "transformers:CLIPModel?text_config.num_hidden_layers=1&vision_config.num_hidden_layers=2"
    config = load_model(spec).build(device="meta").module.config
    assert (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers) == (1, 2)


def test_what_cannot_be_captured_is_switched_off():
    config = load_model("transformers:Wav2Vec2ForCTC?num_hidden_layers=1").build(device="meta").module.config
    assert config.layerdrop == 0.0
    assert config.mask_time_prob == 0.0
    config = load_model(f"transformers:BertForMaskedLM?{SMALL_BERT}").build(device="meta").module.config
    assert config.use_cache is False


def test_dtype_is_that_of_the_parameters():
    captured = capture(load_model(f"transformers:BertForMaskedLM?{SMALL_BERT}&dtype=bfloat16&seq_len=8"))
    assert captured.graph.dtype == "bfloat16"


def test_an_integer_is_accepted_for_a_float():
    spec = f"transformers:BertForMaskedLM?{SMALL_BERT}&hidden_dropout_prob=0"
    assert load_model(spec).build(device="meta").module.config.hidden_dropout_prob == 0.0


def test_unknown_class_suggests_a_near_one():
    with pytest.raises(CaptureError, match="did you mean 'GPT2LMHeadModel'"):
        load_model("transformers:GPT2LMHeadModle")


@pytest.mark.parametrize("name", ["AutoModel", "BertTokenizer", "PreTrainedModel"])
def test_classes_that_are_no_models(name):
    with pytest.raises(CaptureError, match="has no"):
        load_model(f"transformers:{name}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("num_hidden_layer=2", "did you mean 'num_hidden_layers'"),
        ("vision_config.depth=2", "no field 'vision_config.depth'"),
        ("num_hidden_layers=two", "must be of type int"),
        ("seq_len=0", "whole number"),
        ("hidden_size=33", "cannot be built"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(CaptureError, match=message):
        load_model(f"transformers:BertModel?{options}").build(device="meta")


def test_transformers_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CaptureError, match="pip install"):
        load_model("transformers:BertModel")


def test_the_same_seed_gives_the_same_parameters():
    source = load_model(f"transformers:BertForMaskedLM?{SMALL_BERT}")
    first, again = (source.build(seed=4).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
