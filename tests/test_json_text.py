from __future__ import annotations

import json
import math

import pytest

from drlpp.json_text import json_text


def test_numbers_that_json_lacks_are_null():
    text = json_text({"a": [1.5, math.inf, (-math.inf, math.nan)], "b": {"c": math.inf}, "d": True, "e": "Infinity"})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, None]],
        "b": {"c": None},
        "d": True,
        "e": "Infinity",
    }
