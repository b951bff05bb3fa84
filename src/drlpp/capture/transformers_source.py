"""Models of the transformers package, with random parameters of a given configuration."""

from __future__ import annotations

from drlpp.capture.sources import ModelSource
from drlpp.errors import CaptureError


def transformers_source(spec: str, name: str, options: dict[str, str]) -> ModelSource:
    raise CaptureError("todo")
