"""Several pipelines over one module."""

import pytest
from torch import nn

from drlpp.errors import InputError
from drlpp.runtime.other_pipelines import Place, check_shared


class Owner:
    """Stands where a pipeline would: it only has to be alive."""


OWN = Place((0, 1), own=True, owner=None)


def test_the_same_ranks_may_share_a_parameter():
    module, first, second = nn.Linear(1, 1), Owner(), Owner()
    for owner in (first, second):
        check_shared(owner, {"weight": (module.weight, OWN)})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place((0, 2), own=True, owner=None), r"on ranks \[0, 2\], that one on ranks \[0, 1\]"),
        (Place((0, 1), own=False, owner=None), "of a copy of its own on another device"),
        (Place((0, 1), own=True, owner=1), "with ZeRO-1, where another rank changes it"),
    ],
)
def test_pipelines_that_would_go_their_own_ways_are_refused(place, message):
    module, first, second = nn.Linear(1, 1), Owner(), Owner()
    check_shared(first, {"weight": (module.weight, OWN)})
    with pytest.raises(InputError, match=message):
        check_shared(second, {"weight": (module.weight, place)})


def test_a_pipeline_that_is_gone_does_not_count():
    module, first, second = nn.Linear(1, 1), Owner(), Owner()
    check_shared(first, {"weight": (module.weight, OWN)})
    del first
    check_shared(second, {"weight": (module.weight, Place((2,), own=True, owner=None))})
