"""Models of the user: a function in a Python file that returns the module and example inputs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from drlpp.capture.sources.model_source import Example, ModelSource, as_call, one_line, suggestion
from drlpp.capture.sources.operator_definitions import definitions_final, definitions_watched, kept_module
from drlpp.errors import CaptureError
from drlpp.files import is_file


def file_source(spec: str, path: str, function: str) -> ModelSource:
    """The model that a function of a file makes. The file is executed whenever the model is built, or once in this
    process if it defines operators (`drlpp.capture.sources.operator_definitions`).

    The function takes no arguments and returns ``(module, example_inputs)`` or ``(module, example_inputs, loss_fn)``.
    """
    file = Path(path)

    def make() -> Example:
        return _example(spec, _made(spec, file, function))

    return ModelSource(spec=spec, name=f"{file.stem}:{function}", make=make)


def python_function(spec: str, path: str, function: str) -> Callable[[], Any]:
    """A function of a Python file. The file is executed.

    Raises:
        CaptureError: it cannot be executed, or has no such function.
    """
    file = Path(path)
    if not is_file(file):
        raise CaptureError(f"{spec!r}: there is no file {path}: check the path before the last colon")
    module = kept_module(spec, file) or _execute(spec, file)
    found = getattr(module, function, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise CaptureError(
            f"{spec!r}: {file} has no function {function!r}{suggestion(function, names) or ': define it'}"
        )
    return found  # type: ignore[no-any-return]


def _made(spec: str, file: Path, function: str) -> object:
    found = python_function(spec, str(file), function)
    try:
        with definitions_final():
            return found()
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{spec!r}: {function}() raises {type(error).__name__}: {one_line(error)}: it must "
            "return (module, example_inputs) or (module, example_inputs, loss_fn) without arguments"
        ) from error


def _execute(spec: str, file: Path) -> ModuleType:
    name = f"_drlpp_model_{file.stem}"
    loader = importlib.util.spec_from_file_location(name, file)
    if loader is None or loader.loader is None:
        raise CaptureError(f"{spec!r}: {file} cannot be read as Python: name a .py file")
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        with definitions_watched(spec, file, module):
            loader.loader.exec_module(module)
    except CaptureError:
        raise
    except Exception as error:
        line = getattr(error, "lineno", "")
        raise CaptureError(
            f"{spec!r}: {file}{f':{line}' if line else ''} raises {type(error).__name__} when it is imported: "
            f"{one_line(error)}: it must import without an error"
        ) from error
    finally:
        sys.path.remove(str(file.resolve().parent))
        sys.modules.pop(name, None)
    return module


def _example(spec: str, result: object) -> Example:
    if not (isinstance(result, tuple) and len(result) in (2, 3) and isinstance(result[0], torch.nn.Module)):
        raise CaptureError(
            f"{spec!r}: the function returns {type(result).__name__}: it must return (module, example_inputs) or "
            "(module, example_inputs, loss_fn)"
        )
    args, kwargs = as_call(result[1])
    loss_fn = result[2] if len(result) == 3 else None
    if loss_fn is not None and not callable(loss_fn):
        raise CaptureError(f"{spec!r}: loss_fn is {type(loss_fn).__name__}: it must be a function of the output")
    return Example(module=result[0], args=args, kwargs=kwargs, loss_fn=loss_fn)
