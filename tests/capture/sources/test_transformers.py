from __future__ import annotations

import sys

import pytest
import torch
import transformers

from drlpp.capture import capture, load_model
from drlpp.capture.sources.model_source import parse_options, parse_value
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


SMALL = "hidden_size=64&num_hidden_layers=2&vocab_size=100"
GROUPED = f"{SMALL}&num_attention_heads=8&num_key_value_heads=2&intermediate_size=96"
MODELS = [
    f"LlamaForCausalLM?{SMALL}&num_attention_heads=8&intermediate_size=96",
    f"LlamaForCausalLM?{GROUPED}&tie_word_embeddings=true",
    f"MistralForCausalLM?{GROUPED}",
    f"Qwen2ForCausalLM?{GROUPED}",
    f"Qwen3ForCausalLM?{GROUPED}&head_dim=16",
    f"Gemma3ForCausalLM?{GROUPED}&head_dim=16",
    f"Cohere2ForCausalLM?{GROUPED}",
    f"MixtralForCausalLM?{GROUPED}&num_local_experts=4",
    f"Qwen3MoeForCausalLM?{GROUPED}&num_experts=4&moe_intermediate_size=32",
    f"GPTNeoXForCausalLM?{SMALL}&num_attention_heads=4&intermediate_size=96",
    f"PhiForCausalLM?{SMALL}&num_attention_heads=4&intermediate_size=96",
    f"FalconForCausalLM?{SMALL}&num_attention_heads=4",
    f"MambaForCausalLM?{SMALL}",
    f"Mamba2ForCausalLM?{SMALL}&num_heads=8&head_dim=16",
    "GPT2LMHeadModel?n_layer=2&n_embd=64&n_head=4&vocab_size=100",
    "BloomForCausalLM?n_layer=2&hidden_size=64&n_head=4&vocab_size=100",
    f"OPTForCausalLM?{SMALL}&num_attention_heads=4&ffn_dim=96&word_embed_proj_dim=64",
    f"BertForMaskedLM?{SMALL}&num_attention_heads=4&intermediate_size=96",
    "DistilBertForMaskedLM?dim=64&n_heads=4&hidden_dim=96&n_layers=2&vocab_size=100",
    "T5ForConditionalGeneration?d_model=64&d_kv=16&num_heads=4&d_ff=96&num_layers=3&vocab_size=100",
    "BartForConditionalGeneration?d_model=64&encoder_layers=2&decoder_layers=1&encoder_ffn_dim=96&vocab_size=100",
    "ViTForImageClassification?hidden_size=64&num_attention_heads=4&num_hidden_layers=2&image_size=32&patch_size=8",
    "SwinForImageClassification?embed_dim=24&depths=[1,1]&num_heads=[2,4]",
    "CLIPModel?text_config.num_hidden_layers=1&vision_config.hidden_size=96&text_config.hidden_size=64",
    "LlavaForConditionalGeneration?text_config.hidden_size=128&text_config.num_hidden_layers=1"
    "&vision_config.num_hidden_layers=1",
]


@pytest.mark.slow
@pytest.mark.parametrize("spec", MODELS)
def test_a_model_is_the_one_that_the_library_makes_of_the_same_arguments(spec):
    name, _, query = spec.partition("?")
    arguments = {}
    for key, text in parse_options(spec, query).items():
        *path, last = key.split(".")
        into = arguments
        for part in path:
            into = into.setdefault(part, {})
        into[last] = parse_value(text)
    model_class = getattr(transformers, name)
    with torch.device("meta"):
        theirs = model_class(model_class.config_class(**arguments))
    ours = load_model(f"transformers:{spec}").build(device="meta").module
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_the_parameters_of_a_billion_class_llama_follow_from_its_heads():
    options = "hidden_size=2048&num_attention_heads=32&intermediate_size=8192&num_hidden_layers=4"
    module = load_model(f"transformers:LlamaForCausalLM?{options}").build(device="meta").module
    size = 4 * 2048**2 + 3 * 2048 * 8192 + 2 * 2048
    assert sum(p.numel() for p in module.parameters()) == 4 * size + 2 * 32_000 * 2048 + 2048


def test_a_field_by_its_older_name_is_taken():
    spec = f"transformers:LlamaForCausalLM?{GROUPED}&rope_theta=5000.0"
    config = load_model(spec).build(device="meta").module.config
    given = getattr(config, "rope_parameters", None) or vars(config)
    assert given["rope_theta"] == 5000.0


def test_what_a_user_asks_for_is_not_switched_off():
    spec = f"transformers:BertForMaskedLM?{SMALL_BERT}"
    assert load_model(f"{spec}&use_cache=true").build(device="meta").module.config.use_cache is True


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
        ("hidden_size=33", "cannot be built|cannot be made with hidden_size=33"),
        ("hidden_act=gelluh", "cannot be built|cannot be made with hidden_act"),
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
