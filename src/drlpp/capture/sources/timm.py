"""Image classifiers of the timm package, with cross-entropy on random labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from drlpp.capture.sources.model_source import (
    Example,
    ModelSource,
    default_dtype,
    mean_square,
    one_line,
    parse_dtype,
    parse_value,
    suggestion,
    take_int,
)
from drlpp.errors import CaptureError

DEFAULT_BATCH_SIZE = 8


def timm_source(spec: str, name: str, options: dict[str, str]) -> ModelSource:
    """The timm model `name`; one without a classifier gets the mean square of its features as the loss.

    Options: `batch_size`, `image_size` (also `img_size`), `dtype`, and any of `timm.create_model`.

    Raises:
        CaptureError: timm is not installed, or knows no such model.
    """
    try:
        import timm
    except ImportError as error:
        raise CaptureError(f"{spec!r}: timm is not installed: pip install 'drlpp[models]'") from error
    if not timm.is_model(name):
        raise CaptureError(f"{spec!r}: timm has no model {name!r}{suggestion(name, timm.list_models())}")
    options = dict(options)
    batch_size = take_int(spec, options, "batch_size", DEFAULT_BATCH_SIZE)
    image_size = take_int(spec, options, "image_size", 0) if "image_size" in options else None
    if "img_size" in options:
        image_size = take_int(spec, options, "img_size", 0)
    dtype = parse_dtype(spec, options)
    arguments = {key: parse_value(value) for key, value in options.items()}

    def make() -> Example:
        with default_dtype(dtype):
            module = _create(spec, name, arguments, image_size)
        channels, height, width = _input_size(module, arguments, image_size)
        images = torch.randn(batch_size, channels, height, width, dtype=dtype)
        num_classes = getattr(module, "num_classes", 0)
        if num_classes < 1:
            return Example(module=module, args=(images,), kwargs={}, loss_fn=mean_square)
        labels = torch.randint(0, num_classes, (batch_size,))
        return Example(module=module, args=(images, labels), kwargs={}, loss_fn=classification_loss)

    return ModelSource(spec=spec, name=name, make=make)


def classification_loss(output: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the logits ``[N, C]``; the mean of it if a model has several heads."""
    heads = [output] if isinstance(output, torch.Tensor) else list(output)
    losses = [torch.nn.functional.cross_entropy(logits, labels) for logits in heads]
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0]


def _create(spec: str, name: str, arguments: dict[str, Any], image_size: int | None) -> torch.nn.Module:
    """Makes the model; those whose weights depend on the image size are told it."""
    import timm

    attempts = [arguments] if image_size is None else [{**arguments, "img_size": image_size}, arguments]
    for attempt in attempts:
        try:
            module: torch.nn.Module = timm.create_model(name, pretrained=False, **attempt)
        except TypeError as error:
            if attempt is not attempts[-1] and "img_size" in str(error):
                continue
            raise CaptureError(f"{spec!r}: timm cannot build it: {error}: check the options") from error
        except Exception as error:
            raise CaptureError(
                f"{spec!r}: timm cannot build it: {type(error).__name__}: {one_line(error)}: check the options"
            ) from error
        return module
    raise CaptureError(f"{spec!r}: timm cannot build it: check the options")


def _input_size(module: torch.nn.Module, arguments: dict[str, Any], image_size: int | None) -> tuple[int, int, int]:
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    channels = arguments.get("in_chans", channels)
    return (channels, height, width) if image_size is None else (channels, image_size, image_size)
