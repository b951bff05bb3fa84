"""Files that define operators (`torch.library`) are executed once.

A definition of the same name replaces the one before and frees it, while graphs that were captured before still point
at it: what they call then is anything (``ValueError: vector::reserve``, wrong numbers, the end of the process).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from torch.library import Library

from drlpp.errors import CaptureError


@dataclasses.dataclass(frozen=True)
class _Kept:
    text: bytes
    module: ModuleType


_KEPT: dict[Path, _Kept] = {}
"""Files that defined operators in this process."""


def kept_module(spec: str, file: Path) -> ModuleType | None:
    """The module of a file that was executed before, and defines operators; None: execute it.

    Raises:
        CaptureError: it has a model at its top level, which all captures would share.
    """
    kept = _KEPT.get(file.resolve())
    if kept is None or kept.text != file.read_bytes():
        return None
    _refuse_shared(spec, file, kept.module)
    return kept.module


@contextmanager
def definitions_watched(spec: str, file: Path, module: ModuleType) -> Iterator[None]:
    """Context in which a file is executed; it is kept if it defines operators.

    Raises:
        CaptureError: it defines operators, and has a model at its top level, which all captures would share.
    """
    text, found = file.read_bytes(), [False]
    init = Library.__init__

    def noted(self: Library, *args: Any, **kwargs: Any) -> None:
        found[0] |= _is_called_by(module)
        init(self, *args, **kwargs)

    with _replaced("__init__", noted), definitions_final():
        yield
    if found[0]:
        _KEPT[file.resolve()] = _Kept(text, module)
        _refuse_shared(spec, file, module)


def _refuse_shared(spec: str, file: Path, module: ModuleType) -> None:
    for name, value in vars(module).items():
        if isinstance(value, (torch.nn.Parameter, torch.nn.Module)):
            raise CaptureError(
                f"{spec!r}: {file} defines operators, and is therefore executed once, but {name!r} at its top level "
                "would be shared by all that is built from it: make it inside of the function, or define the "
                "operators in a file that this one imports"
            )


@contextmanager
def definitions_final() -> Iterator[None]:
    """Context in which no operator is replaced that was defined before.

    Raises:
        CaptureError: one would be.
    """

    def refuse(self: Library) -> None:
        names = ", ".join(sorted(self._op_defs)) or self.ns
        raise CaptureError(
            f"operator {names} is defined a second time in this process, and captured graphs may call the first: "
            "define it at the top level of one file, under a name that nothing else uses; start anew after a change"
        )

    with _replaced("_destroy", refuse):
        yield


@contextmanager
def _replaced(name: str, function: Any) -> Iterator[None]:
    before = getattr(Library, name)
    setattr(Library, name, function)
    try:
        yield
    finally:
        setattr(Library, name, before)


def _is_called_by(module: ModuleType) -> bool:
    """Whether a file's own code runs, and not that of a module that it imports."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals is vars(module):
            return True
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return False
        frame = frame.f_back
    return False
