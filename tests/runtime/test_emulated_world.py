"""What an emulated run behaves like is read from files, and changes at the steps that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.errors import InputError
from drlpp.runtime.emulated_world import EmulatedWorld, emulated_world

FAST = DeviceType(name="fast", memory_bytes=10**10)
PORT = Link(bandwidth=1e9)
TWO_HOSTS = Cluster("two", (FAST,), tuple(Host(name=n, devices=("fast",), network=PORT) for n in "ab"))
THREE = Cluster("three", (FAST,), (Host(name="a", devices=("fast",) * 3, link=PORT),))


def read(folder: Path, text: str) -> EmulatedWorld:
    path = folder / "events.yaml"
    path.write_text(text)
    return emulated_world(TWO_HOSTS, None, path)


def test_events_hold_for_their_steps(tmp_path: Path) -> None:
    world = read(
        tmp_path,
        "schema_version: 1\nevents:\n- {device: 1, slower: 2, from_step: 5, until_step: 8}\n"
        "- {device: 1, slower: 3, from_step: 7}\n- {host: b, slower: 4}\n",
    )
    assert [world.device_factor(1, step) for step in (4, 5, 7, 8)] == [1, 2, 6, 3]
    assert world.device_factor(0, 7) == 1
    assert world.link_factor(frozenset({0, 1}), 1) == 4
    assert world.link_factor(frozenset({0}), 1) == 1


def test_jitter_is_around_one(tmp_path: Path) -> None:
    noise = read(tmp_path, "schema_version: 1\njitter: 0.2\n").noise(0)
    factors = [noise.factor() for _ in range(1000)]
    assert 0.8 <= min(factors) < 0.82
    assert 1.18 < max(factors) <= 1.2
    assert sum(factors) / len(factors) == pytest.approx(1.0, abs=0.02)


def test_another_cluster() -> None:
    other = Cluster(
        "other", (DeviceType(name="slow", memory_bytes=10**10),), (Host(name="x", devices=("slow",) * 2, link=PORT),)
    )
    assert emulated_world(TWO_HOSTS, other, None).cluster is other
    assert emulated_world(TWO_HOSTS, None, None).cluster is TWO_HOSTS
    with pytest.raises(InputError, match="'three' has 3 devices, that of the plan 2: give one with as many"):
        emulated_world(TWO_HOSTS, THREE, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("3", "found a number: write schema_version: 1, jitter and events"),
        ("schema_version: 2", "schema_version is 2: write schema_version: 1"),
        ("schema_version: 1\njitter: 2", "jitter"),
        ("schema_version: 1\nevents: [{slower: 2}]", "event 1: give either a device or a host"),
        ("schema_version: 1\nevents: [{device: 7, slower: 2}]", r"there is no device 7: the cluster has 0..1"),
        ("schema_version: 1\nevents: [{host: c, slower: 2}]", "there is no host 'c': the cluster has a, b"),
        (
            "schema_version: 1\nevents: [{device: 0, slower: 2, from_step: 5, until_step: 5}]",
            "it ends at step 5 and begins at 5: it must end later",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)
