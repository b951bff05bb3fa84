"""Failures of torch.export as one line that says which construct of which module cannot be captured, and what helps."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

import torch

from drlpp.errors import CaptureError

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
_OTHER_ADVICE = "run the module on the example inputs once in plain PyTorch; if that works, change the construct"


def capture_error(error: BaseException, model: torch.nn.Module) -> CaptureError:
    """The CaptureError for an exception that came out of export of `model`."""
    cause: BaseException = error
    module, place = _where(cause, model)
    kind = type(cause).__name__
    text = " ".join(str(cause).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    advice = next((a for names, a in _ADVICE if kind in names), _OTHER_ADVICE)
    if any(frame.f_locals.get("batch_sizes") is not None for frame, _ in traceback.walk_tb(cause.__traceback__)):
        advice = "sizes of pack_padded_sequence depend on values: give the layer the padded tensor, and mask its result"
    at = f"module {module!r}" if module else f"module {type(model).__name__}"
    return CaptureError(f"{at} cannot be captured at {place}: {kind}: {text}: {advice}")


def _where(error: BaseException, model: torch.nn.Module) -> tuple[str, str]:
    """Path of the innermost module that was running, and the line of its code (file:line `code`)."""
    path_of = {id(m): name for name, m in model.named_modules()}
    torch_root, own_root = str(Path(torch.__file__).parent), str(Path(__file__).parent)
    module, place = "", "an unknown place"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module) and id(owner) in path_of:
            module = path_of[id(owner)] or module
        if isinstance(owner, torch.nn.Module) and not file.startswith((torch_root, own_root)):
            place = f"{Path(file).name}:{line} `{linecache.getline(file, line).strip()}`"
    return module, place
