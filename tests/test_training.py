"""The training set-up."""

import pytest

from drlpp.errors import InputError
from drlpp.training import TrainingSetup


def test_resident_bytes_by_optimizer():
    assert TrainingSetup(num_microbatches=1, optimizer="sgd").bytes_per_param_byte == 2
    assert TrainingSetup(num_microbatches=1, optimizer="adamw").bytes_per_param_byte == 4


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        TrainingSetup(num_microbatches=0)
    with pytest.raises(InputError, match="'adam' is not known"):
        TrainingSetup(num_microbatches=1, optimizer="adam")
