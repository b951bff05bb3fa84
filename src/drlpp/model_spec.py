"""How models are named: ``timm:NAME``, ``transformers:CLASS`` or ``path/to/file.py:callable``."""

from __future__ import annotations

from typing import Literal, NamedTuple

from drlpp.errors import CaptureError
from drlpp.files import is_file


class ModelSpec(NamedTuple):
    """A model's name, taken apart.

    Attributes:
        scheme: where the model comes from.
        name: of the model of a library, or the path of the Python file.
        rest: the options after ``?`` as they are written, or the name of the callable.
    """

    scheme: Literal["timm", "transformers", "file"]
    name: str
    rest: str


def parse_model_spec(spec: str) -> ModelSpec:
    """Takes the name of a model apart.

    Raises:
        CaptureError: `spec` does not name a model, or names a Python file that is not there.
    """
    scheme, _, named = spec.partition(":")
    name, _, query = named.partition("?")
    if scheme == "timm" and name:
        return ModelSpec("timm", name, query)
    if scheme == "transformers" and name:
        return ModelSpec("transformers", name, query)
    path, _, function = spec.rpartition(":")
    if path.endswith(".py") and function.isidentifier():
        if not is_file(path):
            raise CaptureError(f"{spec!r}: there is no file {path}: check the path before the last colon")
        return ModelSpec("file", path, function)
    raise CaptureError(
        f"{spec!r} does not name a model: write timm:NAME, transformers:CLASS (both may end in ?key=value&...) or "
        "path/to/file.py:callable"
    )
