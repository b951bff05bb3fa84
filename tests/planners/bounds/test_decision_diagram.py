import dataclasses
import itertools
import math

import numpy as np
import pytest

from drlpp.planners.base import Budget
from drlpp.planners.bounds.decision_diagram import Row, find_sets, overlap

UNLIMITED = Budget(math.inf)


def row(
    seconds,
    moved_s,
    *,
    exchange=(0.0, 0.0, 0.0),
    param_bytes=None,
    satellite=None,
    beside_s=None,
    held=None,
    count=(2,),
    between_s=None,
    apart=0.0,
):
    table = np.atleast_2d(np.array(seconds, dtype=np.float64))
    num = table.shape[1]
    return Row(
        seconds=table,
        param_bytes=np.zeros(num) if param_bytes is None else np.array(param_bytes, dtype=np.float64),
        moved_s=np.array(moved_s, dtype=np.float64),
        satellite=np.zeros(num, dtype=np.bool_) if satellite is None else np.array(satellite, dtype=np.bool_),
        beside_s=np.zeros(num) if beside_s is None else np.array(beside_s, dtype=np.float64),
        held=np.full(num, -1) if held is None else np.array(held, dtype=np.int64),
        exchange=np.array(exchange, dtype=np.float64),
        count=np.array(count, dtype=np.int64),
        weight=np.ones(len(count)),
        between_s=np.zeros_like(table) if between_s is None else np.array(between_s, dtype=np.float64),
        apart=apart,
    )


def threshold(problem, width=1000):
    low, high = 0.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if find_sets(problem, middle, width, UNLIMITED) else (middle, high)
    return high


def add_moves(load, seconds, before, after):
    """What devices move between two sets, by the definition in the module's text."""
    if not before or set(before) == set(after):
        return
    for d in range(len(load)):
        mine = 1 / len(after) if d in after else 0.0
        was = 1 / len(before) if d in before else 0.0
        kept = 1 / math.lcm(len(after), len(before)) if mine and was else 0.0
        load[d] += seconds * max(0.0, mine + was - 2 * kept)


def add_between(load, problem, kind, g, s):
    """What was taken out before group g, if that has the devices of the group before: by `least_between`."""
    r = len(s)
    parts = [1 / r] + [1 / r + 1 / q - 2 / math.lcm(r, q) for q in range(1, len(problem.exchange)) if q != r]
    for d in s:
        load[d] += min(problem.between_s[kind[d], g] / r, min(parts) * problem.moved_s[g])


def largest_load(problem, way):
    """Of the devices, with the given set for each group; or the mean with what is apart, if that is more."""
    kind = np.repeat(np.arange(len(problem.count)), problem.count)
    load = np.zeros(len(kind))
    inside = np.zeros(len(kind))
    main, held = (), ()
    for g, s in enumerate(way):
        if set(s) == set(main) and not problem.satellite[g]:
            add_between(inside, problem, kind, g, s)
        for d in s:
            load[d] += problem.seconds[kind[d], g] / len(s) + problem.exchange[len(s)] * problem.param_bytes[g]
        add_moves(load, problem.moved_s[g], main, s)
        add_moves(load, problem.beside_s[g], held, s)
        held = {1: s, 0: held, 2: held if set(s) == set(main) else (), -1: ()}[int(problem.held[g])]
        main = main if problem.satellite[g] else s
    return max(float((load + inside).max()), (float(load.sum()) + problem.apart) / len(kind))


def exhaustive(problem):
    """Smallest largest load over all sets."""
    most = len(problem.exchange) - 1
    sets = [s for r in range(1, most + 1) for s in itertools.combinations(range(int(problem.count.sum())), r)]
    return min(largest_load(problem, way) for way in itertools.product(sets, repeat=problem.num_groups))


def random_row(rng, seed, groups):
    count = [(3,), (2, 1), (1, 2), (2,)][seed % 4]
    most = sum(count) if seed % 5 else 1
    between = rng.uniform(0, 0.5, (len(count), groups)) * (rng.random(groups) < 0.5) * (seed % 2)
    return row(
        rng.uniform(0.5, 3, (len(count), groups)),
        np.append(0.0, rng.uniform(0, 1, groups - 1)),
        exchange=np.append(0.0, np.cumsum(np.append(0.0, rng.uniform(0, 0.5, most - 1)))),
        param_bytes=rng.uniform(0, 2, groups) * (rng.random(groups) < 0.6),
        satellite=(rng.random(groups) < 0.4) & (np.arange(groups) > 0),
        beside_s=rng.uniform(0, 1, groups) * (rng.random(groups) < 0.6),
        held=rng.integers(-1, 3, groups) if seed % 3 else None,
        count=count,
        between_s=between,
        apart=float(between.min(axis=0).sum()),
    )


def test_free_replication_leaves_the_work():
    assert threshold(row([2.0, 2.0], [0.0, 0.0])) == pytest.approx(2.0, rel=1e-6)


def test_without_replication_a_dear_cut_is_not_made():
    assert threshold(row([2.0, 2.0], [0.0, 50.0], exchange=(0.0, 0.0))) == pytest.approx(4.0, rel=1e-6)


def test_the_cut_between_two_devices_loads_both():
    assert threshold(row([2.0, 2.0], [0.0, 0.5], exchange=(0.0, 0.0))) == pytest.approx(2.5, rel=1e-6)


def test_what_cannot_be_replicated_comes_on_top_of_what_is_everywhere():
    problem = row([8.0, 1.0], [0.0, 0.1], exchange=(0.0, 0.0, 100.0), param_bytes=[0.0, 1.0])
    assert threshold(problem) == pytest.approx(5.05, rel=1e-6)  # 8 / 2 + 1 and half of the transfers


def test_a_satellite_leaves_the_set_of_its_main_group_as_it_is():
    problem = row([2.0, 2.0, 2.0], [0.0, 0.1, 50.0], exchange=(0.0, 0.0), satellite=[False, True, False])
    assert threshold(problem) == pytest.approx(4.1, rel=1e-6)  # the third group stays with the first


def test_what_is_taken_out_runs_where_the_groups_around_it_do():
    """Two groups of two seconds, and what was taken out between them takes one."""
    far = row([2.0, 2.0], [0.0, 50.0], exchange=(0.0, 0.0), between_s=[[0.0, 1.0]], apart=1.0)
    assert threshold(far) == pytest.approx(5.0, rel=1e-6)
    near = row([2.0, 2.0], [0.0, 0.5], exchange=(0.0, 0.0), between_s=[[0.0, 1.0]], apart=1.0)
    assert threshold(near) == pytest.approx(3.0, rel=1e-6)  # half of the sum: where it runs is not known


def test_ops_apart_take_part_of_the_sum():
    assert threshold(row([2.0, 2.0], [0.0, 0.0], apart=2.0)) == pytest.approx(3.0, rel=1e-6)


def test_what_is_held_is_not_forgotten():
    """The third group pays for leaving the first, though it stays with the second."""
    problem = row([2.0, 2.0, 0.0], [0.0, 0.0, 50.0], exchange=(0.0, 0.0), beside_s=[0, 0, 0.5], held=[1, 0, -1])
    assert threshold(problem) == pytest.approx(2.5, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(120))
def test_equals_exhaustive_search_when_nothing_is_joined(seed):
    rng = np.random.default_rng(seed)
    problem = random_row(rng, seed, int(rng.integers(2, 5)))
    best = exhaustive(problem)
    assert find_sets(problem, best * (1 + 1e-6), 10_000, UNLIMITED)
    assert find_sets(problem, best * (1 - 1e-4), 10_000, UNLIMITED) == []
    for width in (1, 3, 10):
        assert find_sets(problem, best * (1 + 1e-6), width, UNLIMITED)  # joined states hide no plan


@pytest.mark.parametrize("width", [1, 20, 1000])
@pytest.mark.parametrize("seed", range(12))
def test_ways_have_the_loads_that_they_promise_where_states_are_dropped(seed, width):
    problem = random_row(np.random.default_rng(seed), seed, 12)
    low, high = 0.0, 60.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        ways = find_sets(problem, middle, width, UNLIMITED, most_ways=5, relaxed=False)
        low, high = (low, middle) if ways else (middle, high)
        for way in ways:
            assert largest_load(problem, way) <= middle * (1 + 1e-6)
    if high < 60.0:  # what may be joined promises no less
        assert find_sets(problem, high, width, UNLIMITED)


def test_the_sets_have_the_loads_that_were_asked_for():
    problem = row([2.0, 1.0, 3.0], [0.0, 0.1, 0.1], exchange=(0.0, 0.0, 0.1), param_bytes=[1.0, 1.0, 1.0])
    ways = find_sets(problem, threshold(problem) * 1.2, 1000, UNLIMITED, most_ways=3)
    assert 1 <= len(ways) <= 3
    for way in ways:
        assert len(way) == 3
        assert all(set(s) <= {0, 1} and s for s in way)


def test_a_spent_budget_gives_no_answer():
    assert find_sets(row([1.0], [0.0]), 10.0, 10, Budget(0)) is None


def test_overlap_is_one_over_the_least_common_multiple():
    share, kept = overlap(6)
    assert share[4] == 0.25
    assert kept[4, 6] == pytest.approx(1 / 12)
    looser, more = overlap(6, period=10)  # the evaluator stops before the period of 60
    assert (looser[1:] < share[1:]).all()
    assert (more > kept).all()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("moved_s", np.zeros(3), "moved_s has 3 elements: it needs 2"),
        ("held", np.array([0, 3]), r"held has the element 3: it must be in -1\.\.2"),
        ("between_s", np.zeros((2, 2)), "rows of between_s has 2 elements: it needs 1"),
    ],
)
def test_a_row_whose_arrays_do_not_fit_is_refused(field, value, message):
    wrong = dataclasses.replace(row([2.0, 2.0], [0.0, 0.0]), **{field: value})
    with pytest.raises(ValueError, match=message):
        find_sets(wrong, 1.0, 10, UNLIMITED)


def test_arrays_of_another_type_are_refused():
    wrong = dataclasses.replace(row([2.0, 2.0], [0.0, 0.0]), weight=np.ones(1, dtype=np.float32))
    with pytest.raises(TypeError, match="weight has dtype float32: it must be float64"):
        find_sets(wrong, 1.0, 10, UNLIMITED)
