"""Example inputs for models of the transformers package, from the arguments of their `forward` and their configuration.

Token ids, images and audio are random; attention masks are left out (all ones is the default, and masks make some
models look at their values). Classes with a known kind of label get labels, so that their output has a loss; for the
others the loss is `drlpp.capture.sources.load.mean_square`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from drlpp.errors import CaptureError

NUM_CHOICES = 2
AUDIO_SAMPLES = 16_000
_ID_LABELS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining")
_NEED_ATTENTION_MASK = {"switch_transformers", "longt5"}
_NEED_DECODER_IDS = {"prophetnet"}
"""Model types that check the values of decoder ids which they make from labels, but not of given ones."""
_ONE_TOKEN_PER_PATCH = {"llava", "paligemma"}
"""Model types whose text holds one image token for every patch of the image."""
_SAMPLE_LABELS = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForNextSentencePrediction",
)


def example_inputs(
    module: torch.nn.Module, batch_size: int, seq_len: int, dtype: torch.dtype | None
) -> tuple[dict[str, Any], bool]:
    """Keyword arguments for one micro-batch, and whether the output will have a loss.

    Raises:
        CaptureError: the main input of the model is of an unknown kind.
    """
    maker = _Maker(module, batch_size, seq_len)
    inputs: dict[str, Any] = maker.inputs()
    labels = maker.labels(inputs)
    inputs |= labels
    if dtype is not None:
        inputs = {
            k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()
        }
    return inputs, bool(labels)


class _Maker:
    def __init__(self, module: Any, batch_size: int, seq_len: int) -> None:
        self._config = module.config
        self._class = type(module).__name__
        self._main = module.main_input_name
        self._arguments = inspect.signature(module.forward).parameters
        self._batch = batch_size
        limit = self._get("max_position_embeddings", "n_positions", "max_seq_len", default=seq_len)
        self._seq = min(seq_len, limit if isinstance(limit, int) and limit > 2 else seq_len)

    def _get(self, *keys: str, default: Any = None) -> Any:
        """The first of the fields that the configuration, or a configuration in it, has."""
        parts = [self._config]
        for name in ("text_config", "decoder", "vision_config", "audio_config", "encoder"):
            part = getattr(self._config, name, None)
            if part is not None and not isinstance(part, (str, dict)):
                parts.append(part)
        for part in parts:
            for key in keys:
                value = getattr(part, key, None)
                if value is not None:
                    return value
        return default

    def inputs(self) -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        if self._main == "input_ids" or ("input_ids" in self._arguments and "pixel_values" in self._arguments):
            out["input_ids"] = self._ids()
            if "ForMultipleChoice" in self._class:
                out["input_ids"] = torch.stack([out["input_ids"], self._ids()], dim=1)
            if "decoder_input_ids" in self._arguments and not self._makes_decoder_ids():
                out["decoder_input_ids"] = self._ids()
            if self._config.model_type in _NEED_ATTENTION_MASK:
                out["attention_mask"] = torch.ones_like(out["input_ids"])
        if self._main == "pixel_values" or "pixel_values" in self._arguments:
            out["pixel_values"] = self._images()
            if self._config.model_type in _ONE_TOKEN_PER_PATCH:
                out["input_ids"] = torch.cat([self._image_tokens(), out["input_ids"]], dim=1)
        if self._main == "input_values":
            out["input_values"] = self._audio()
        if self._main == "input_features":
            out["input_features"] = self._audio_features()
            if "decoder_input_ids" in self._arguments and not self._makes_decoder_ids():
                out["decoder_input_ids"] = self._ids()
        if self._main in _SERIES:
            out |= _SERIES[self._main](self)
        if self._main == "inputs":
            out["inputs"] = self._ids()
        if "bbox" in self._arguments:
            out["bbox"] = self._boxes()
        if "bool_masked_pos" in self._arguments and "ForMaskedImageModeling" in self._class:
            out["bool_masked_pos"] = self._masked_patches()
        if not out:
            raise CaptureError(
                f"{self._class} takes {self._main!r}, of which no example can be made: write a function that returns "
                "the model and its inputs, and name it as path/to/file.py:callable"
            )
        return out

    def _makes_decoder_ids(self) -> bool:
        if self._config.model_type in _NEED_DECODER_IDS:
            return False
        return self._class.endswith("ForConditionalGeneration") and "labels" in self._arguments

    def _vocabulary(self) -> int:
        size = self._get("vocab_size", default=1000)
        return int(size[0] if isinstance(size, (list, tuple)) else size)

    def _ids(self, num_more: int = 0) -> torch.Tensor:
        """Token ids ``[N, S + num_more]``; the first and last few, special tokens in most vocabularies, are avoided."""
        size = self._vocabulary()
        low, high = (4, size - 4) if size > 16 else (0, size)
        return torch.randint(low, high, (self._batch, self._seq + num_more))

    def _image_shape(self) -> tuple[int, int, int]:
        size = self._get("image_size", "input_size", default=224)
        if isinstance(size, dict):
            size = (size["height"], size["width"]) if "height" in size else next(iter(size.values()))
        height, width = (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
        channels = self._get("num_channels", "in_channels", default=3)
        return int(channels), height, width

    def _images(self) -> torch.Tensor:
        frames = self._get("num_frames")
        shape = self._image_shape()
        if frames is not None and ("Video" in self._class or "Former" in self._class or "Vivit" in self._class):
            return torch.randn(self._batch, int(frames), *shape)
        return torch.randn(self._batch, *shape)

    def _audio(self) -> torch.Tensor:
        """Raw audio ``[N, samples]``, or a spectrogram ``[N, frames, bins]`` for models with `num_mel_bins`."""
        bins, frames = self._get("num_mel_bins"), self._get("max_length")
        if bins is not None and frames is not None and "patch_size" in vars(self._config):
            return torch.randn(self._batch, int(frames), int(bins))
        return torch.randn(self._batch, AUDIO_SAMPLES)

    def _audio_features(self) -> torch.Tensor:
        bins = int(self._get("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", default=80))
        positions = self._get("max_source_positions")
        if positions is not None and "Whisper" in self._class:
            return torch.randn(self._batch, bins, 2 * int(positions))
        return torch.randn(self._batch, 4 * self._seq, bins)

    def _boxes(self) -> torch.Tensor:
        """Boxes ``[N, S, 4]`` (left, top, right, bottom) on a page of 1,000 x 1,000."""
        corners = torch.randint(0, 500, (self._batch, self._seq, 2))
        return torch.cat([corners, corners + torch.randint(1, 500, corners.shape)], dim=-1)

    def _num_patches(self) -> int:
        _, height, width = self._image_shape()
        patch = int(self._get("patch_size", default=16))
        return (height // patch) * (width // patch)

    def _masked_patches(self) -> torch.Tensor:
        return torch.rand(self._batch, self._num_patches()) < 0.4

    def _image_tokens(self) -> torch.Tensor:
        token = int(self._get("image_token_id", "image_token_index"))
        return torch.full((self._batch, self._num_patches()), token)

    def _series(self) -> dict[str, torch.Tensor]:
        """Past and future of a time series, with the features that the model asks for."""
        channels = int(self._get("num_input_channels", "input_size", default=1))
        past = int(self._get("context_length", default=32)) + max(self._get("lags_sequence", default=[0]))
        future = int(self._get("prediction_length", default=16))

        def values(length: int, width: int, *, squeeze: bool) -> torch.Tensor:
            return torch.randn(self._batch, length) if squeeze else torch.randn(self._batch, length, width)

        one = channels == 1 and self._get("num_input_channels") is None
        out = {"past_values": values(past, channels, squeeze=one)}
        if "future_values" in self._arguments:
            out["future_values"] = values(future, channels, squeeze=one)
        if "past_time_features" in self._arguments:
            width = int(self._get("num_time_features", default=0))
            out["past_time_features"] = values(past, width, squeeze=False)
            out["future_time_features"] = values(future, width, squeeze=False)
            out["past_observed_mask"] = torch.ones_like(out["past_values"])
        return out

    def _trajectory(self) -> dict[str, torch.Tensor]:
        """States, actions and rewards of an episode."""
        length = min(self._seq, 32)
        return {
            "states": torch.randn(self._batch, length, int(self._config.state_dim)),
            "actions": torch.randn(self._batch, length, int(self._config.act_dim)),
            "rewards": torch.randn(self._batch, length, 1),
            "returns_to_go": torch.randn(self._batch, length, 1),
            "timesteps": torch.arange(length).repeat(self._batch, 1),
        }

    def labels(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Labels of the kind that the class expects; empty if that is not known."""
        name, has = self._class, self._arguments
        if "ForQuestionAnswering" in name and "start_positions" in has:
            return {k: torch.randint(0, self._seq, (self._batch,)) for k in ("start_positions", "end_positions")}
        if "future_values" in inputs:
            return {"future_values": inputs["future_values"]}
        if "return_loss" in has and "pixel_values" in inputs and "input_ids" in inputs:
            return {"return_loss": True}
        if "labels" not in has:
            return {}
        num_labels = int(getattr(self._config, "num_labels", 2))
        if name.endswith(_SAMPLE_LABELS):
            self._config.problem_type = "single_label_classification"
            return {"labels": torch.randint(0, num_labels, (self._batch,))}
        if name.endswith("ForMultipleChoice"):
            return {"labels": torch.randint(0, NUM_CHOICES, (self._batch,))}
        if name.endswith("ForTokenClassification"):
            return {"labels": torch.randint(0, num_labels, (self._batch, self._seq))}
        if name.endswith(_ID_LABELS) and ("input_ids" in inputs or "input_features" in inputs):
            num_image_tokens = self._num_patches() if self._config.model_type in _ONE_TOKEN_PER_PATCH else 0
            labels = {"labels": self._ids(num_image_tokens)}
            if "next_sentence_label" in has:
                labels["next_sentence_label"] = torch.randint(0, 2, (self._batch,))
            return labels
        if name.endswith("ForSemanticSegmentation"):
            return {"labels": torch.randint(0, num_labels, (self._batch, *self._image_shape()[1:]))}
        return {}


_SERIES = {"past_values": _Maker._series, "states": _Maker._trajectory}
