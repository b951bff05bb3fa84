"""Which model a specification names: ``timm:NAME``, ``transformers:CLASS`` or ``path/to/file.py:callable``."""

from __future__ import annotations

from drlpp.capture.sources.model_source import ModelSource, parse_options
from drlpp.capture.sources.python_file import file_source
from drlpp.capture.sources.timm import timm_source
from drlpp.capture.sources.transformers import transformers_source
from drlpp.model_spec import parse_model_spec


def load_model(spec: str) -> ModelSource:
    """Finds the model that `spec` names (``timm:resnet50?batch_size=4``, ``transformers:GPT2LMHeadModel?n_layer=12``,
    ``models/mine.py:make``).

    Raises:
        CaptureError: there is no such model, or an option is wrong; the message suggests a near match.
    """
    scheme, name, rest = parse_model_spec(spec)
    if scheme == "timm":
        return timm_source(spec, name, parse_options(spec, rest))
    if scheme == "transformers":
        return transformers_source(spec, name, parse_options(spec, rest))
    return file_source(spec, name, rest)
