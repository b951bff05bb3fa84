"""Clusters by name."""

import pytest

from drlpp.cluster import load_cluster
from drlpp.cluster.presets import cluster_presets
from drlpp.errors import ClusterError


@pytest.mark.parametrize("name", list(cluster_presets()))
def test_every_preset_is_a_cluster_with_its_source(name):
    preset = cluster_presets()[name]
    assert preset.description
    assert preset.source
    assert load_cluster(name).num_devices > 0


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ClusterError, match="neither a preset nor a file: did you mean 'local-2'"):
        load_cluster("local2")
