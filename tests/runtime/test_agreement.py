"""What ranks know together."""

import pytest

from drlpp.errors import InputError
from drlpp.runtime.agreement import Request, merged


def test_each_rank_tells_what_it_knows():
    first = Request(mode="train", given=True, shapes=({"x": (2, 3)},), trained={"a": True}, count=4.0)
    second = Request(mode="train", shapes=(), trained={"b": False}, samples=(2,), copies=True)
    both = merged([first, second])
    assert (both.given, both.shapes, both.samples, both.count) == (True, ({"x": (2, 3)},), (2,), 4.0)
    assert both.trained == {"a": True, "b": False}
    assert both.copies


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({}, {"problem": "it broke"}, "rank 1 cannot run this step: it broke"),
        ({}, {"mode": "evaluate"}, "some ranks train and others evaluate"),
        ({"given": True}, {"given": False}, "some ranks were given a batch and others none"),
        ({"given": True, "shapes": ({}, {})}, {"given": True, "shapes": ({},)}, r"given \[1, 2\] micro-batches"),
        (
            {"given": True, "shapes": ({"x": (2,)},)},
            {"given": True, "shapes": ({"x": (3,)},)},
            r"input 'x' of micro-batch 0 has shape \[3\] on one rank and \[2\] on another",
        ),
        ({"samples": (1,)}, {"samples": (2,)}, "different numbers of samples"),
        ({"weights": (1.0,)}, {"weights": (2.0,)}, "different weights"),
        ({"count": 1.0}, {"count": 2.0}, "different counts"),
        ({"trained": {"w": True}}, {"trained": {"w": False}}, "'w' has requires_grad False on one rank"),
    ],
)
def test_ranks_that_do_not_agree_are_told_why(one, other, message):
    with pytest.raises(InputError, match=message):
        merged([Request(**{"mode": "train", **of_rank}) for of_rank in (one, other)])
