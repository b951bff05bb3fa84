import pytest

from drlpp.errors import InputError
from drlpp.export import EXPORTERS
from drlpp.planners.engines.engine import ENGINES, get_engine
from drlpp.schedules.registry import SCHEDULES


def test_engines_are_what_the_exporters_write():
    formats = {name.removesuffix("-schedule").removesuffix("-split") for name in EXPORTERS}
    assert set(ENGINES) <= formats


def test_schedules_of_engines_exist():
    assert all(name in SCHEDULES for engine in ENGINES.values() for name in engine.schedules)


def test_unknown_engines_are_refused_with_a_hint():
    assert get_engine("megatron").title == "Megatron-LM"
    with pytest.raises(InputError, match="did you mean 'megatron'"):
        get_engine("megatrn")
