"""Generated clusters."""

import numpy as np
import pytest

from drlpp.cluster.generate import CLUSTER_KINDS


@pytest.mark.parametrize("kind", CLUSTER_KINDS)
def test_clusters_are_valid_and_follow_the_seed(kind):
    for seed in range(20):
        a, b = (CLUSTER_KINDS[kind](np.random.default_rng(seed)) for _ in range(2))
        assert a == b
        assert 2 <= a.num_devices <= 40


def test_types_are_mixed_where_the_name_says_so():
    rng = np.random.default_rng(0)
    for kind in ("mixed-hosts", "mixed-in-host"):
        assert all(len(set(CLUSTER_KINDS[kind](rng).type_index.tolist())) > 1 for _ in range(10))
