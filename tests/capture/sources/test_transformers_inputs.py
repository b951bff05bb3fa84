from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture import load_model
from drlpp.capture.sources.transformers_inputs import example_inputs
from drlpp.errors import CaptureError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "shapes", "has_loss"),
    [
        ("BertForSequenceClassification", {"input_ids": (2, 8), "labels": (2,)}, True),
        ("BertForTokenClassification", {"input_ids": (2, 8), "labels": (2, 8)}, True),
        ("BertForMultipleChoice", {"input_ids": (2, 2, 8), "labels": (2,)}, True),
        ("BertForQuestionAnswering", {"input_ids": (2, 8), "start_positions": (2,), "end_positions": (2,)}, True),
        ("BertForPreTraining", {"input_ids": (2, 8), "labels": (2, 8), "next_sentence_label": (2,)}, True),
        ("BertModel", {"input_ids": (2, 8)}, False),
        ("BartForConditionalGeneration", {"input_ids": (2, 8), "labels": (2, 8)}, True),
        ("T5Model", {"input_ids": (2, 8), "decoder_input_ids": (2, 8)}, False),
        ("LayoutLMForTokenClassification", {"input_ids": (2, 8), "bbox": (2, 8, 4), "labels": (2, 8)}, True),
        ("ViTForImageClassification", {"pixel_values": (2, 3, 224, 224), "labels": (2,)}, True),
        ("ViTForMaskedImageModeling", {"pixel_values": (2, 3, 224, 224), "bool_masked_pos": (2, 196)}, False),
        ("SegformerForSemanticSegmentation", {"pixel_values": (2, 3, 224, 224), "labels": (2, 224, 224)}, True),
        ("VideoMAEForVideoClassification", {"pixel_values": (2, 16, 3, 224, 224), "labels": (2,)}, True),
        ("Wav2Vec2ForCTC", {"input_values": (2, 16_000)}, False),
        ("ASTForAudioClassification", {"input_values": (2, 1024, 128)}, False),
        ("WhisperForConditionalGeneration", {"input_features": (2, 80, 3000), "labels": (2, 8)}, True),
        ("PatchTSTForPrediction", {"past_values": (2, 32, 1), "future_values": (2, 24, 1)}, True),
        ("DecisionTransformerModel", {"states": (2, 8, 17), "timesteps": (2, 8)}, False),
        ("LlavaForConditionalGeneration", {"input_ids": (2, 584), "labels": (2, 584)}, True),
        ("PerceiverForMaskedLM", {"inputs": (2, 8)}, False),
        ("ProphetNetForConditionalGeneration", {"input_ids": (2, 8), "decoder_input_ids": (2, 8)}, True),
        ("LongT5ForConditionalGeneration", {"input_ids": (2, 8), "attention_mask": (2, 8)}, True),
    ],
)
def test_inputs_of_the_kinds_of_models(spec, shapes, has_loss):
    example = load_model(f"transformers:{spec}?batch_size=2&seq_len=8").build(device="meta")
    found = {k: tuple(v.shape) for k, v in example.kwargs.items()}
    assert found.items() >= shapes.items()
    assert (example.loss_fn is None) == has_loss


def test_contrastive_models_are_asked_for_their_loss():
    example = load_model("transformers:CLIPModel?batch_size=2&seq_len=8").build(device="meta")
    assert example.kwargs["return_loss"] is True


def test_sequences_are_cut_to_what_the_model_can_take():
    example = load_model("transformers:BertModel?max_position_embeddings=16&seq_len=64").build(device="meta")
    assert example.kwargs["input_ids"].shape[1] == 16


def test_floating_point_inputs_take_the_dtype():
    example = load_model("transformers:ViTModel?batch_size=1&dtype=bfloat16").build(device="meta")
    assert example.kwargs["pixel_values"].dtype == torch.bfloat16


def test_unknown_kind_of_input():
    class Config:
        model_type = "odd"

    class Odd(nn.Module):
        config = Config()
        main_input_name = "smells"

        def forward(self, smells: torch.Tensor) -> torch.Tensor:
            return smells

    with pytest.raises(CaptureError, match="takes 'smells'"):
        example_inputs(Odd(), 2, 8, None)
