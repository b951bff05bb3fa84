"""Tiny transformers of known families, and two towers. Each function returns (module, inputs), as `small_models`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

Made = tuple[nn.Module, Any]
BATCH, LENGTH, VOCABULARY = 2, 8, 64


def _text(module: nn.Module) -> Made:
    ids = torch.randint(1, VOCABULARY, (BATCH, LENGTH))
    return module, {"input_ids": ids, "labels": ids.clone()}


def llama() -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=16, **sizes)
    return _text(LlamaForCausalLM(config))


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=16, **tokens)
    return _text(GPT2LMHeadModel(config))


def bert() -> Made:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    return _text(BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes)))


def t5() -> Made:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    tokens = {"decoder_start_token_id": 0, "pad_token_id": 0}
    return _text(T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **sizes, **tokens)))


def vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = ViTConfig(image_size=16, patch_size=4, num_labels=8, **sizes)
    images = {"pixel_values": torch.randn(BATCH, 3, 16, 16), "labels": torch.randint(8, (BATCH,))}
    return ViTForImageClassification(config), images


def mixtral() -> Made:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(
        vocab_size=VOCABULARY, num_hidden_layers=2, num_local_experts=4, max_position_embeddings=16, **sizes
    )
    return _text(MixtralForCausalLM(config))


class TwoTowers(nn.Module):
    """Texts and images in one space, with a contrastive loss."""

    def __init__(self) -> None:
        super().__init__()
        layer = {"nhead": 4, "dim_feedforward": 64, "batch_first": True, "dropout": 0.0}
        self.table = nn.Embedding(VOCABULARY, 32)
        self.text = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, **layer), 1, enable_nested_tensor=False)
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.image = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, **layer), 1, enable_nested_tensor=False)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, ids: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        text = F.normalize(self.text(self.table(ids)).mean(1), dim=-1)
        image = F.normalize(self.image(self.patches(images).flatten(2).transpose(1, 2)).mean(1), dim=-1)
        scores = self.scale.exp() * text @ image.t()
        target = torch.arange(len(ids), device=ids.device)
        return F.cross_entropy(scores, target) + F.cross_entropy(scores.t(), target)


def two_towers() -> Made:
    return TwoTowers(), (torch.randint(VOCABULARY, (BATCH, LENGTH)), torch.randn(BATCH, 3, 16, 16))


TRANSFORMERS = {made.__name__: made for made in (llama, gpt2, bert, t5, vit, mixtral, two_towers)}
