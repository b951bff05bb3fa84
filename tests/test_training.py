"""The training set-up."""

import pytest

from drlpp.errors import InputError
from drlpp.training import TrainingSetup, precision_of


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        TrainingSetup(num_microbatches=0)
    with pytest.raises(InputError, match="'adam' is not known"):
        TrainingSetup(num_microbatches=1, optimizer="adam")


def test_precision_of_an_element_type():
    assert precision_of("bfloat16") == "bf16"
    assert precision_of("float64") == "fp32"
    assert TrainingSetup(num_microbatches=1, precision="fp16").in_low_precision
    assert not TrainingSetup(num_microbatches=1, precision="tf32").in_low_precision


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="precision 'fp8' is not known: use one of fp32, tf32, bf16, fp16"):
        TrainingSetup(num_microbatches=1, precision="fp8")
