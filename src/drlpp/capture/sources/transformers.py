"""Models of the transformers package, with random parameters of a given configuration.

Options of the specification are `batch_size`, `seq_len` and `dtype`; any other is a field of the model's configuration
(``num_hidden_layers=4``; ``text_config.num_hidden_layers=4`` for a nested one). They go to the configuration's
constructor, so that fields that it derives from others follow: the model is the one that the library makes of the same
arguments. Switched off are layer drop (random values would decide which ops run), masks drawn outside of the graph
(they would be the same in every step) and caches (of no use in training).
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Mapping
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
from drlpp.capture.sources.transformers_inputs import example_inputs
from drlpp.errors import CaptureError

DEFAULT_BATCH_SIZE = 4
DEFAULT_SEQ_LEN = 128
_SWITCHED_OFF = {
    "use_cache": False,
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "return_dict": True,
}
_FILLED_IN = {"pad_token_id": 0, "decoder_start_token_id": 0}
"""Values for fields that a configuration leaves open (absent or None) but models need."""
_RENAMED = {"rope_theta": "rope_parameters", "rope_scaling": "rope_parameters"}
"""Fields that transformers 5 holds in another one, and still takes."""
_VOCABULARY = 32_000
"""Tokens of a model whose configuration leaves that open."""


def transformers_source(spec: str, name: str, options: dict[str, str]) -> ModelSource:
    """The transformers class `name`.

    Raises:
        CaptureError: transformers is not installed, or has no such model class.
    """
    model_class = _model_class(spec, name)
    options = dict(options)
    batch_size = take_int(spec, options, "batch_size", DEFAULT_BATCH_SIZE)
    seq_len = take_int(spec, options, "seq_len", DEFAULT_SEQ_LEN)
    dtype = parse_dtype(spec, options)

    def make() -> Example:
        config = _config(spec, model_class, options)
        module = _create(spec, model_class, config, dtype)
        inputs, has_loss = example_inputs(module, batch_size, seq_len, dtype)
        return Example(module=module, args=(), kwargs=inputs, loss_fn=None if has_loss else mean_square)

    return ModelSource(spec=spec, name=name, make=make)


def _model_class(spec: str, name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CaptureError(f"{spec!r}: transformers is not installed: pip install 'drlpp[models]'") from error
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        known = [n for n in dir(transformers) if n.endswith("Model") or "For" in n]
        raise CaptureError(
            f"{spec!r}: transformers has no model class {name!r}{suggestion(name, known) or ': see its documentation'}"
        )
    if model_class.config_class is None:
        raise CaptureError(f"{spec!r}: {name} has no configuration of its own: name a class of one architecture")
    return model_class


def _config(spec: str, model_class: Any, options: Mapping[str, str]) -> Any:
    """The configuration that the library makes of the options, with what cannot be captured switched off."""
    config_class = model_class.config_class
    try:
        default = config_class()
    except Exception as error:
        raise CaptureError(
            f"{spec!r}: {config_class.__name__} has no defaults ({one_line(error)}): write a function that "
            "returns the model and name it as path/to/file.py:callable"
        ) from error
    arguments: dict[str, Any] = {}
    for key, text in options.items():
        _add_argument(spec, default, arguments, key, text)
    try:
        config = config_class(**arguments) if arguments else default
    except Exception as error:
        given = "&".join(f"{key}={text}" for key, text in options.items())
        raise CaptureError(
            f"{spec!r}: {config_class.__name__} cannot be made with {given}: {one_line(error)}: change these options"
        ) from error
    asked = {key.rpartition(".")[2] for key in options}
    for part in _with_nested(config):
        for key, value in _SWITCHED_OFF.items():
            if hasattr(part, key) and key not in asked:
                with contextlib.suppress(AttributeError, NotImplementedError):
                    setattr(part, key, value)
        if getattr(part, "vocab_size", _VOCABULARY) is None:
            part.vocab_size = _VOCABULARY
        for key, value in _FILLED_IN.items():
            if getattr(part, key, None) is None:
                setattr(part, key, value)
    return config


def _with_nested(config: Any) -> list[Any]:
    """A configuration and the configurations in its fields."""
    out, i = [config], 0
    while i < len(out):
        out += [v for v in vars(out[i]).values() if _is_config(v)]
        i += 1
    return out


def _add_argument(spec: str, default: Any, arguments: dict[str, Any], key: str, text: str) -> None:
    """Adds one option to the arguments of the constructor; ``a.b=1`` goes to the dictionary that stands for ``a``."""
    *path, last = key.split(".")
    owner: Any = default
    into = arguments
    for part in path:
        owner = getattr(owner, part, None)
        nested = {"model_type": owner.model_type} if _is_config(owner) else {}
        into = into.setdefault(part, nested)
    if not _is_config(owner) or not _is_field(owner, last):
        names = {k for k in vars(default) if not k.startswith("_")} | set(_parameters(default))
        known = sorted(names | set(default.attribute_map))
        raise CaptureError(
            f"{spec!r}: {type(default).__name__} has no field {key!r}{suggestion(key, known) or ': see its definition'}"
        )
    into[last] = _value(spec, key, text, getattr(owner, last, None))


def _is_config(value: Any) -> bool:
    import transformers

    return isinstance(value, transformers.PretrainedConfig)


def _is_field(config: Any, name: str) -> bool:
    names = {name, _RENAMED.get(name, name)}
    known = any(hasattr(config, n) or hasattr(config, f"_{n}") for n in names)  # _attn_implementation
    return known or any(n in config.attribute_map or n in _parameters(config) for n in names)


def _parameters(config: Any) -> list[str]:
    """Names that the constructor takes one by one."""
    return [
        p.name
        for p in inspect.signature(type(config).__init__).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
    ]


def _value(spec: str, key: str, text: str, current: Any) -> Any:
    """The option's value, of the type of the default."""
    value = parse_value(text)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(current, (bool, int, float)) and value is not None and type(value) is not type(current):
        raise CaptureError(
            f"{spec!r}: option {key} is {text!r}: it must be of type {type(current).__name__} (now {current!r})"
        )
    return value


def _create(spec: str, model_class: Any, config: Any, dtype: torch.dtype | None) -> torch.nn.Module:
    try:
        with warnings.catch_warnings(), default_dtype(dtype):
            warnings.simplefilter("ignore")
            module: torch.nn.Module = model_class(config)
    except Exception as error:
        raise CaptureError(
            f"{spec!r}: {model_class.__name__} cannot be built: {type(error).__name__}: {one_line(error)}: check the "
            "options"
        ) from error
    return module
