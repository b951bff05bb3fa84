"""Failures of torch.export as one line that says which construct of which module cannot be captured, and what helps."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import traceback
from pathlib import Path

import torch

from drlpp.capture.loss import LOSS
from drlpp.errors import CaptureError


class TraceError(CaptureError):
    """A construct that cannot be traced, and can be run: the module that has it may be kept whole.

    Attributes:
        module: its path in the model with its loss (``model.encoder``, ``criterion``; empty if it is not known).
    """

    def __init__(self, message: str, module: str = "") -> None:
        super().__init__(message)
        self.module = module


_ADVICE = (
    (
        ("GuardOnDataDependentSymNode", "DataDependentOutputException", "UserError", "DynamicOutputShapeException"),
        "it depends on the values of a tensor: use torch.where and shapes known in advance, or switch it off "
        "(layer drop, data-dependent masks and expert loops have options)",
    ),
    (
        ("UnsupportedOperatorException", "UnsupportedFakeTensorException"),
        "the operator has no shape rule: register a fake kernel for it (torch.library.register_fake)",
    ),
    (("NotImplementedError",), "the operator or the method is not implemented for this input"),
    (("OutOfMemoryError", "MemoryError"), "use a smaller micro-batch, or capture without values (device meta)"),
)
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
_LIBRARY_FILES = (contextlib.__file__,)
_OTHER_ADVICE = "run the module on the example inputs once in plain PyTorch; if that works, change the construct"


def capture_error(error: BaseException, model: torch.nn.Module) -> TraceError:
    """The error for an exception that came out of export of `model`, which has its loss with it."""
    path, place = where_it_failed(error, model)
    module = path.removeprefix("model").removeprefix(".")
    kind = type(error).__name__
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    advice = next((a for names, a in _ADVICE if kind in names), _OTHER_ADVICE)
    if any(frame.f_locals.get("batch_sizes") is not None for frame, _ in traceback.walk_tb(error.__traceback__)):
        advice = "sizes of pack_padded_sequence depend on values: give the layer the padded tensor, and mask its result"
    at = f"module {module!r}" if module else f"module {type(getattr(model, 'model', model)).__name__}"
    return TraceError(f"{at} cannot be captured at {place}: {kind}: {text}: {advice}", path)


def users_line() -> str:
    """``file.py:12`` of the innermost line that runs now and is neither PyTorch's nor ours."""
    frame = inspect.currentframe()
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return "an unknown place" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) or file in _LIBRARY_FILES


def where_it_failed(error: BaseException, model: torch.nn.Module) -> tuple[str, str]:
    """Path of the innermost module that was running, and the user's line that was (file:line `code`)."""
    path_of = {id(vars(m)): name for name, m in model.named_modules()}  # a trace may use proxies of modules
    module, place = "", "an unknown place"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, names = frame.f_code.co_filename, frame.f_code.co_varnames
        owner = frame.f_locals.get(names[0]) if names else None
        if isinstance(owner, torch.nn.Module) and id(vars(owner)) in path_of:
            module = path_of[id(vars(owner))] or module
            if frame.f_code.co_name == "loss_of" and file.startswith(_LIBRARIES[1]):
                module = LOSS
        if module and not file.startswith(_LIBRARIES):
            place = f"{Path(file).name}:{line} `{linecache.getline(file, line).strip()}`"
    return module, place
