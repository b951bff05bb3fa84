"""Which replica runs which micro-batch."""

import itertools
from fractions import Fraction

import pytest

from drlpp.errors import PlanError
from drlpp.plan import Stage, StageSettings
from drlpp.plan.shares import LONGEST_ROUND, lowest_terms, microbatches_of_each, turns

PROPORTIONS = [shares for r in (2, 3) for shares in itertools.product(range(1, 7), repeat=r)]


def dealt(shares, num_microbatches):
    """The rule in its words: one micro-batch after the other, to the replica with the least (assigned + 1) / share."""
    assigned, out = [0] * len(shares), []
    for _ in range(num_microbatches):
        r = min(range(len(shares)), key=lambda r: (Fraction(assigned[r] + 1, shares[r]), r))
        assigned[r] += 1
        out.append(r)
    return out


@pytest.mark.parametrize("shares", PROPORTIONS)
def test_the_order_of_a_round_is_dealt_by_the_rule_again_and_again(shares):
    lowest = lowest_terms(shares, len(shares), 0)
    order = turns(lowest, len(shares))
    assert [order[m % len(order)] for m in range(40)] == dealt(shares, 40)
    assert microbatches_of_each(lowest, len(shares), 17) == tuple(
        dealt(shares, 17).count(r) for r in range(len(shares))
    )
    assert tuple(order.count(r) for r in range(len(shares))) == (lowest or (1,) * len(shares))


def test_equal_shares_are_none():
    assert lowest_terms((3, 3, 3), 3, 0) == ()
    assert lowest_terms((7,), 1, 0) == ()
    assert turns((), 3) == (0, 1, 2)
    assert lowest_terms((4, 2), 2, 0) == (2, 1)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1, 2, 3), "stage 7 has 3 shares for 2 replicas: give one to each, or none"),
        ((1, 0), "stage 7 has the share 0: shares are at least 1; leave the replica out instead"),
        ((LONGEST_ROUND, 1), "stage 7 has shares that add up to 10001 in lowest terms: they add up to 10000 at most"),
    ],
)
def test_what_are_no_shares_is_refused(shares, message):
    with pytest.raises(PlanError, match=message):
        lowest_terms(shares, 2, 7)


def test_a_stage_runs_micro_batches_by_its_shares():
    stage = Stage(index=0, ops=("op",), replicas=((4,), (2,)), settings=StageSettings(shares=(4, 2)))
    assert stage.settings.shares == (2, 1)
    assert stage.turns == (0, 0, 1)
    assert [stage.device(m) for m in range(6)] == [4, 4, 2, 4, 4, 2]
    assert [stage.group(m) for m in range(3)] == [(4,), (4,), (2,)]
