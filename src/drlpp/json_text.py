"""JSON that every reader takes: numbers that JSON does not have (infinity, not a number) are written as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(data: object) -> str:
    """The text of mappings, sequences, strings, numbers, booleans and None, without Infinity and NaN."""
    return json.dumps(_finite(data), allow_nan=False)


def _finite(data: object) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
