"""Options of a run."""

import dataclasses
import json

import pytest

from drlpp.errors import InputError
from drlpp.runtime.launch.job import Adapt, RunOptions


def test_options_are_read_as_they_were_written():
    for options in (RunOptions(steps=7, data="d.py:f"), RunOptions(adapt=Adapt(command=("a", "b"), every=3))):
        assert RunOptions.read(json.loads(json.dumps(dataclasses.asdict(options)))) == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"emulate": True, "verify": True}, "an emulated run computes nothing"),
        ({"emulate_events": "e.yaml"}, "set emulate too"),
        ({"precision": "int8"}, "precision 'int8' is not known"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"adapt": Adapt(command=()), "track_memory": True}, "leave one of them out"),
        ({"verify": True, "checkpoint": "folder"}, "leave out the checkpoint"),
        ({"time_scale": 0.0}, "time_scale is 0.0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RunOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"after_steps": 1}, "after_steps 1, every 2"),
        ({"every": 0}, "every 0"),
        ({"planning_s": 0.0}, "planning_s is"),
        ({"worth": -1.0}, "worth is -1.0"),
    ],
)
def test_bad_numbers_of_an_adapting_run_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Adapt(command=(), **options)
