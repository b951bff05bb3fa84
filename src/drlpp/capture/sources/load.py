"""Which model a specification names: ``timm:NAME``, ``transformers:CLASS`` or ``path/to/file.py:callable``."""

from __future__ import annotations

from drlpp.capture.sources.model_source import ModelSource, parse_options
from drlpp.capture.sources.python_file import file_source
from drlpp.capture.sources.timm import timm_source
from drlpp.capture.sources.transformers import transformers_source
from drlpp.errors import CaptureError


def load_model(spec: str) -> ModelSource:
    """Finds the model that `spec` names (``timm:resnet50?batch_size=4``, ``transformers:GPT2LMHeadModel?n_layer=12``,
    ``models/mine.py:make``).

    Raises:
        CaptureError: there is no such model, or an option is wrong; the message suggests a near match.
    """

    scheme, colon, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if scheme == "timm" and name:
        return timm_source(spec, name, parse_options(spec, query))
    if scheme == "transformers" and name:
        return transformers_source(spec, name, parse_options(spec, query))
    path, colon, function = spec.rpartition(":")
    if colon and path.endswith(".py") and function.isidentifier():
        return file_source(spec, path, function)
    raise CaptureError(
        f"{spec!r} does not name a model: write timm:NAME, transformers:CLASS (both may end in ?key=value&...) or "
        "path/to/file.py:callable"
    )
