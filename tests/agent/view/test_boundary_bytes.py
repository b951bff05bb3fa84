"""Crossings: bytes that enter and leave a stretch, against counting them one by one."""

import numpy as np
import pytest

from agent_problems import small_problem
from drlpp.agent.view.boundary_bytes import crossings
from drlpp.agent.view.features import problem_view


@pytest.mark.parametrize("seed", range(4))
def test_crossings_count_each_tensor_once(seed):
    view = problem_view(small_problem(seed, 10))
    t, orders = view.tables, view.orders[:3]
    into, out = crossings(orders, t)
    for u, order in enumerate(orders):
        position = np.argsort(order)
        for i in range(11):
            for j in range(i, 11):
                entering = leaving = 0.0
                for q, size in enumerate(t.tensor_bytes):
                    made, *read = position[t.tensor_ops[t.tensor_ptr[q] : t.tensor_ptr[q + 1]]]
                    entering += size * (made < i and any(i <= x < j for x in read))
                    leaving += size * (i <= made < j and any(x >= j for x in read))
                assert into[u, i, j] == pytest.approx(entering)
                assert out[u, i, j] == pytest.approx(leaving)


def test_what_leaves_a_prefix_is_live():
    view = problem_view(small_problem(1, 12))
    _, out = crossings(view.orders[:1], view.tables)
    assert out[0, 0] == pytest.approx(view.tables.live_bytes(view.orders[0]), abs=1.0)
