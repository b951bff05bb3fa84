from __future__ import annotations

import json

import pytest

from drlpp.errors import InputError
from drlpp.export import EXPORTERS, get_exporter


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_format_writes_a_plan_in_whole_layers(layered_plan, name):
    text = get_exporter(name)(layered_plan)
    assert text.endswith("\n")
    assert EXPORTERS[name].summary


def test_the_trace_is_that_of_the_simulator(layered_plan):
    content = json.loads(EXPORTERS["chrome-trace"].export(layered_plan))
    assert content["otherData"]["source"] == "simulated"


def test_unknown_formats_are_refused():
    with pytest.raises(InputError, match="'megatorn' is not known: did you mean 'megatron'"):
        get_exporter("megatorn")
    with pytest.raises(InputError, match="formats are torch-schedule"):
        get_exporter("xyz")
