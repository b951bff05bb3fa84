"""What is minimised, and what its value is the time of."""

from types import SimpleNamespace

import pytest

from drlpp.errors import InputError
from drlpp.plan import Objective


def test_each_objective_reads_its_own_time():
    times = SimpleNamespace(iteration_time_s=8.0, bottleneck_s=0.5)
    assert Objective("iteration-time").value_s(times) == 8.0
    assert Objective("steady-state").value_s(times) == 0.5


def test_how_many_microbatches_a_value_is_for():
    assert Objective.ITERATION_TIME.microbatches(16) == 16
    assert Objective.STEADY_STATE.microbatches(16) == 1


def test_unknown_objectives_are_refused():
    with pytest.raises(InputError, match="objective 'speed' is not known: use one of iteration-time, steady-state"):
        Objective("speed")
