import numpy as np
import pytest

from drlpp.planners.run_bound import may_exist

NONE = np.zeros(0)
FREE = np.zeros(3)  # gradients cost nothing, two devices


def exists(path_s, moved_s, bound_s, *, exchange=FREE, devices=2, path_bytes=None):
    seconds = np.array(path_s)
    sizes = np.zeros(len(seconds)) if path_bytes is None else np.array(path_bytes)
    return may_exist(seconds, sizes, np.array(moved_s), NONE, NONE, exchange, devices, bound_s)


def threshold(*args, **options):
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if exists(*args, middle, **options) else (middle, high)
    return high


def test_free_replication_leaves_the_work():
    assert threshold([2.0, 2.0], [0.0, 0.0]) == pytest.approx(2.0, rel=1e-6)


def test_without_replication_and_with_free_transfers_the_runs_spread():
    assert threshold([2.0, 2.0], [0.0, 0.0], exchange=np.zeros(2)) == pytest.approx(2.0, rel=1e-6)


def test_without_replication_a_dear_cut_is_not_made():
    assert threshold([2.0, 2.0], [0.0, 50.0], exchange=np.zeros(2)) == pytest.approx(4.0, rel=1e-6)


def test_the_cut_between_two_devices_loads_both():
    assert threshold([2.0, 2.0], [0.0, 0.5], exchange=np.zeros(2)) == pytest.approx(2.5, rel=1e-6)


def test_what_cannot_be_replicated_comes_on_top_of_what_is_everywhere():
    """Convolutions before a layer with many parameters: replicas of the first on both devices, or a cut."""
    dear = np.array([0.0, 0.0, 100.0])
    bound = threshold([8.0, 1.0], [0.0, 0.1], exchange=dear, path_bytes=[0.0, 1.0])
    assert bound == pytest.approx(5.05, rel=0.05)  # 8 / 2 + 1 and the half of the transfers


def test_more_time_than_the_devices_have_never_fits():
    assert not exists([3.0, 3.0], [0.0, 0.0], 2.9)


def test_too_many_cuts_skip_the_test():
    many = 400
    assert may_exist(np.ones(many), np.zeros(many), np.zeros(many), NONE, NONE, np.zeros(9), 8, many / 8 + 1)
