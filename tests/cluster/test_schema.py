"""The YAML form of clusters, and presets."""

import pytest
import yaml

from drlpp.cluster import cluster_from_dict, cluster_presets, cluster_to_dict, load_cluster
from drlpp.errors import ClusterError
from mutations import edited

TEXT = """
schema_version: 1
name: two-kinds
device_types:
  fast: {preset: a100-sxm4-80gb}
  slow: {preset: v100-sxm2-16gb, memory: 32GB}
  measured: {speed: 0.5, memory: 16GB}
hosts:
  - {name: a, devices: [fast, fast], link: {bandwidth: 300GB/s, latency: 5us},
     network: {bandwidth: 25Gbit/s, latency: 30us}}
  - {name: b, count: 3, devices: [slow, measured], link: {bandwidth: 12GB/s, latency: 10us},
     network: {bandwidth: 10Gbit/s}}
"""


def data():
    return yaml.safe_load(TEXT)


def test_the_documented_file():
    c = cluster_from_dict(data())
    assert c.num_devices == 8
    assert [h.name for h in c.hosts] == ["a", "b0", "b1", "b2"]
    assert c.devices[2].type.memory_bytes == 32e9
    assert c.devices[2].type.memory_bandwidth == 900e9  # from the database
    assert c.devices[3].type.speed == 0.5
    assert c.devices[3].type.speed_is_given
    assert c.hosts[0].network.bandwidth == 3.125e9
    assert c.hosts[1].network.latency_s == 0


def test_a_collective_step_survives_a_round_trip():
    d = data()
    d["hosts"][0]["link"]["collective_step"] = "1us"
    d["hosts"][1]["links"] = [{"between": [[0, 1]], "bandwidth": "50GB/s", "collective_step": "2us"}]
    cluster = cluster_from_dict(d)
    assert cluster.hosts[0].link.step_s == 1e-6
    assert cluster.hosts[1].links[0].link.step_s == 2e-6
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


def test_a_database_name_can_be_used_directly():
    d = data()
    d["hosts"][0]["devices"] = ["t4-16gb", "fast"]
    assert cluster_from_dict(d).devices[0].type.preset == "t4-16gb"


@pytest.mark.parametrize("name", cluster_presets())
def test_presets_load_and_survive_a_round_trip(name):
    cluster = load_cluster(name)
    assert cluster.name == name
    assert cluster_from_dict(yaml.safe_load(yaml.safe_dump(cluster_to_dict(cluster), sort_keys=False))) == cluster
    assert cluster_presets()[name].source


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema_version"], 7, "schema_version is 7"),
        (["colour"], "red", "unknown key 'colour'"),
        (["hosts", 0, "devicez"], 1, r"unknown key 'hosts.0.devicez': did you mean 'devices'\?"),
        (["name"], None, "key 'name' is missing"),
        (["hosts", 0, "network", "bandwidth"], "-1GB/s", "hosts.0.network.bandwidth"),
        (["hosts", 0, "network", "bandwidth"], "25 furlongs", "is not a bandwidth"),
        (["hosts", 0, "network", "latency"], -1, "hosts.0.network.latency = -1"),
        (["hosts", 0, "count"], 0, "hosts.0.count"),
        (["hosts", 0, "devices"], [], "hosts.0.devices"),
        (["hosts", 0, "devices"], ["tpu9"], "device preset 'tpu9' is not known"),
        (["hosts", 0, "link"], None, "give it a link"),
        (["hosts", 0, "network"], None, "each needs a network"),
        (["device_types", "fast", "memory"], 0, "device_types.fast.memory"),
        (["device_types", "fast", "speed"], 0, "device_types.fast.speed"),
        (
            ["device_types", "fast", "preset"],
            "a100-sxm4-80g",
            r"'a100-sxm4-80g' is not known: did you mean 'a100-sxm4-80gb'\?",
        ),
        (["device_types", "measured", "memory"], None, "neither preset nor memory"),
        (["device_types", "measured", "speed"], None, "has no speed"),
        (["device_types", "measured"], {"memory": 1, "peak_flops": {"float32": 1e12}}, "without memory_bandwidth"),
    ],
)
def test_bad_files_are_refused_with_the_place(path, value, message):
    with pytest.raises(ClusterError, match=message) as caught:
        cluster_from_dict(edited(data(), path, value), "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_mapping(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("- 1")
    with pytest.raises(ClusterError, match="found a list"):
        load_cluster(str(path))


def test_a_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: [1,\nb: {")
    with pytest.raises(ClusterError, match="line 2: not YAML"):
        load_cluster(str(path))


def test_a_missing_file():
    with pytest.raises(ClusterError, match="cannot read cluster file"):
        load_cluster("nowhere.yaml")


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ClusterError, match="did you mean 'mixed-desktops'"):
        load_cluster("mixed-desktop")


def test_network_cards_are_added_and_written_back():
    text = """
schema_version: 1
name: two
hosts:
  - {name: a, devices: [t4-16gb], network: {bandwidth: 400Gbit/s, latency: 1ms, ports: 8}}
  - {name: b, devices: [t4-16gb], network: {bandwidth: 400Gbit/s, latency: 5us}}
"""
    cluster = cluster_from_dict(yaml.safe_load(text))
    assert [(h.network.bandwidth, h.network.ports) for h in cluster.hosts] == [(400e9, 8), (50e9, 1)]
    assert cluster_to_dict(cluster)["hosts"][0]["network"] == {"bandwidth": 50e9, "latency": 1e-3, "ports": 8}
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


def test_the_time_of_the_host_is_read_and_written_back():
    hosts = [{"name": "a", "devices": ["eager", "compiled"], "link": {"bandwidth": 1e9}}]
    types = {"eager": {"preset": "t4-16gb"}, "compiled": {"preset": "t4-16gb", "host_op_time": "0us"}}
    cluster = cluster_from_dict({"schema_version": 1, "name": "two", "device_types": types, "hosts": hosts})
    assert cluster.device_types[0].host_op_s > 0
    assert cluster.device_types[1].host_op_s == 0
    assert cluster_from_dict(cluster_to_dict(cluster)) == cluster


def test_links_of_groups_survive_a_round_trip():
    d = data()
    d["hosts"][0] = {
        "name": "a",
        "devices": ["fast"] * 4,
        "link": {"bandwidth": "12GB/s"},
        "links": [{"between": [[0, 1], [3, 2]], "bandwidth": "100GB/s", "latency": "1us"}],
        "network": {"bandwidth": "25Gbit/s"},
    }
    c = cluster_from_dict(d)
    assert c.path(2, 3).bandwidth == 1e11
    assert c.path(1, 2).bandwidth == 12e9
    assert cluster_from_dict(yaml.safe_load(yaml.safe_dump(cluster_to_dict(c)))).hosts == c.hosts


def test_an_unknown_key_of_links_is_refused():
    d = data()
    d["hosts"][0]["links"] = [{"between": [[0, 1]], "betwen": [[0, 1]], "bandwidth": "100GB/s"}]
    with pytest.raises(ClusterError, match="betwen"):
        cluster_from_dict(d)
