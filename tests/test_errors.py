"""The kinds of errors, and hints in their messages."""

import pytest

from drlpp import errors


@pytest.mark.parametrize("name", ["GraphError", "ClusterError", "PlanError", "ScheduleError", "CaptureError"])
def test_bad_input_is_a_value_error(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.InputError)
    assert issubclass(kind, ValueError)


def test_what_went_wrong_elsewhere_is_no_input_error():
    for kind in (errors.InfeasibleError, errors.ExecutionError, errors.StoppedError, errors.InstallationError):
        assert issubclass(kind, errors.DrlppError)
        assert not issubclass(kind, errors.InputError)


def test_a_near_name_is_suggested():
    assert errors.did_you_mean("anealing", ["dp", "annealing"]) == "did you mean 'annealing'? "
    assert errors.did_you_mean("zzz", ["dp", "annealing"]) == ""
