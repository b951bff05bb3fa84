"""Which replica of a stage runs which micro-batch: the one rule for plans, simulator and runtime.

The replicas of a stage divide its micro-batches in proportion to their shares, positive integers. Micro-batch m goes to
the replica with the least ``(assigned + 1) / share``, the first of these where several have it (D'Hondt's rule). Equal
shares give ``m mod R``. With shares in lowest terms the order repeats after as many micro-batches as they add up to,
and within such a round each replica runs its share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from drlpp.errors import PlanError

Shares = tuple[int, ...]
"""A share per replica, in lowest terms; empty where all are equal."""
LONGEST_ROUND = 10_000
"""Most micro-batches of a round."""


def lowest_terms(shares: Sequence[int], num_replicas: int, stage: int) -> Shares:
    """The same proportions in the smallest numbers; empty if they are equal.

    Args:
        stage: for messages.

    Raises:
        PlanError: the number of shares is not that of the replicas, a share is below 1, or a round is too long.
    """
    if not shares:
        return ()
    if len(shares) != num_replicas:
        raise PlanError(
            f"stage {stage} has {len(shares)} shares for {num_replicas} replicas: give one to each, or none"
        )
    if min(shares) < 1:
        raise PlanError(
            f"stage {stage} has the share {min(shares)}: shares are at least 1; leave the replica out instead"
        )
    divisor = math.gcd(*shares)
    lowest = tuple(share // divisor for share in shares)
    if sum(lowest) > LONGEST_ROUND:
        raise PlanError(
            f"stage {stage} has shares that add up to {sum(lowest)} in lowest terms: they add up to {LONGEST_ROUND} at "
            "most, so give coarser ones"
        )
    return () if max(lowest) == 1 else lowest


@functools.lru_cache(maxsize=4096)
def turns(shares: Shares, num_replicas: int) -> tuple[int, ...]:
    """The replicas that run the micro-batches of a round, in order; micro-batch m is in turn ``m % len(turns)``."""
    if not shares:
        return tuple(range(num_replicas))
    whole = math.lcm(*shares)
    due = [(count * (whole // share), r) for r, share in enumerate(shares) for count in range(1, share + 1)]
    return tuple(r for _, r in sorted(due))


def microbatches_of_each(shares: Shares, num_replicas: int, num_microbatches: int) -> tuple[int, ...]:
    """How many micro-batches of a step each replica runs."""
    order = turns(shares, num_replicas)
    rounds, rest = divmod(num_microbatches, len(order))
    return tuple(rounds * order.count(r) + order[:rest].count(r) for r in range(num_replicas))
