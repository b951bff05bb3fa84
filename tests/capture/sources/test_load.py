"""Models by their names."""

from __future__ import annotations

import pytest

from drlpp.capture import load_model
from drlpp.errors import CaptureError


@pytest.mark.parametrize("spec", ["resnet50", "timm:", "keras:resnet", "model.txt:make", "a.py:not-a-name", ""])
def test_specs_of_no_known_form_are_refused(spec):
    with pytest.raises(CaptureError, match="does not name a model"):
        load_model(spec)
