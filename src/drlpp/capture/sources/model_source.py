"""A model that can be built again and again with the same result, and what the kinds of sources share."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import parse_qsl

import torch

from drlpp.capture.loss import LossFunction
from drlpp.capture.sources.fake_parameters import hollow_parameters, needs_values
from drlpp.capture.sources.initial_values import seeded_construction
from drlpp.errors import CaptureError
from drlpp.torch_private import tree_leaves

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclasses.dataclass(frozen=True)
class Example:
    """A model with one micro-batch of inputs.

    Attributes:
        module: the model.
        args, kwargs: what it is called with; the first dimension of tensors is samples.
        loss_fn: output (and target, see `drlpp.capture.loss.takes_target`) -> scalar loss; None if the module's
            output is the loss or carries it (`drlpp.capture.loss.loss_in`).
    """

    module: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss_fn: LossFunction | None


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model that can be built.

    Attributes:
        spec: what a person typed.
        name: short name for people.
        make: builds the example from the current random state.
    """

    spec: str
    name: str
    make: Callable[[], Example]

    def build(self, *, device: Literal["meta", "cpu"] = "cpu", seed: int = 0) -> Example:
        """Builds the model and its inputs; the caller's random state is left alone.

        Args:
            device: ``meta``: parameters take no memory and have no values, unless a constructor needs them; ``cpu``:
                they have.
            seed: of the initial parameters and the inputs.

        Raises:
            CaptureError: the model cannot be built.
        """
        if device == "meta":
            try:
                with seeded_construction(seed), hollow_parameters():
                    return self.make()
            except CaptureError as error:
                if not needs_values(error):
                    raise
        with seeded_construction(seed):
            return self.make()


def parse_options(spec: str, query: str) -> dict[str, str]:
    """``a=1&b=x`` -> options. Raises CaptureError if it is not of that form or repeats a key."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise CaptureError(f"{spec!r}: options {query!r} are not of the form key=value&key=value") from error
    options = dict(pairs)
    if len(options) < len(pairs):
        raise CaptureError(f"{spec!r}: an option is given twice in {query!r}: give each once")
    return options


def take_int(spec: str, options: dict[str, str], key: str, default: int) -> int:
    """Removes a positive whole number from the options. Raises CaptureError."""
    text = options.pop(key, None)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise CaptureError(f"{spec!r}: option {key} is {text!r}: it must be a whole number of at least 1")
    return value


def parse_value(text: str) -> Any:
    """``true``, ``none``, ``3``, ``0.5``, ``[1,2]`` -> the value; anything else is a string."""
    import ast

    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_dtype(spec: str, options: dict[str, str]) -> torch.dtype | None:
    """Removes `dtype` from the options; None if it is not there. Raises CaptureError."""
    text = options.pop("dtype", None)
    if text is None:
        return None
    if text not in _DTYPES:
        raise CaptureError(f"{spec!r}: option dtype is {text!r}: use one of {', '.join(_DTYPES)}")
    return _DTYPES[text]


@contextmanager
def default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Context in which modules make their parameters in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def one_line(error: BaseException) -> str:
    """The message of an exception, on one line and not longer than 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest known names, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def mean_square(output: Any) -> torch.Tensor:
    """Mean square of the first floating-point output: a stand-in loss for models that define none. Raises CaptureError
    if the output has no such tensor with a gradient."""
    if isinstance(output, Mapping):
        output = list(output.values())
    tensors = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
    trained = [t for t in tensors if t.is_floating_point() and t.requires_grad]
    if not trained:
        raise CaptureError("the model's output has no tensor with a gradient: write a loss_fn for it")
    return trained[0].float().square().mean()


def as_call(inputs: torch.Tensor | Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs in any of their forms -> positional and keyword arguments. Raises CaptureError."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    raise CaptureError(
        f"example inputs are of type {type(inputs).__name__}: give a tensor, a tuple or list of arguments, or a dict "
        "of keyword arguments"
    )
