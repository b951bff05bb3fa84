"""Names of models, taken apart."""

import pytest

from drlpp.errors import CaptureError
from drlpp.model_spec import ModelSpec, parse_model_spec


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("timm:resnet50", ModelSpec("timm", "resnet50", "")),
        ("timm:resnet50?batch_size=4", ModelSpec("timm", "resnet50", "batch_size=4")),
        (
            "transformers:GPT2Model?n_layer=2&seq_len=8",
            ModelSpec("transformers", "GPT2Model", "n_layer=2&seq_len=8"),
        ),
        (f"{__file__}:make", ModelSpec("file", __file__, "make")),
    ],
)
def test_names(spec, parts):
    assert parse_model_spec(spec) == parts


@pytest.mark.parametrize("spec", ["resnet50", "timm:", "mine.txt:make", "mine.py:", "mine.py:two words", ""])
def test_what_names_no_model_is_refused(spec):
    with pytest.raises(CaptureError, match="does not name a model: write timm:NAME"):
        parse_model_spec(spec)


def test_a_file_that_is_not_there():
    with pytest.raises(CaptureError, match=r"'mine.py:make': there is no file mine.py"):
        parse_model_spec("mine.py:make")
