"""What an emulated run behaves like: a cluster, and how it changes from step to step.

The cluster is that of the plan, or another one with as many devices, so that a plan can be run where its costs are
wrong. Changes are read from a YAML file::

    schema_version: 1
    jitter: 0.2                    # every action and message takes up to 20 % more or less, at random
    events:
      - {device: 2, slower: 2.0, from_step: 50, until_step: 120}
      - {host: a, slower: 4.0, from_step: 60}          # its links: all that its devices send and receive

Steps count from 1, as in the lines of a run; `until_step` is the first one that is not slower any more.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drlpp.cluster import Cluster
from drlpp.errors import InputError
from drlpp.files import read_text
from drlpp.parsing import first_problem, kind_of, parse_yaml

SCHEMA_VERSION = 1


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Event(_Schema):
    device: Annotated[int, Field(ge=0)] | None = None
    host: str | None = None
    slower: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    from_step: Annotated[int, Field(ge=1)] = 1
    until_step: Annotated[int, Field(ge=1)] | None = None


class _Changes(_Schema):
    schema_version: int
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    events: list[_Event] = []


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A device, or the links of a host, is slower for some steps.

    Attributes:
        device: id; None if it is a host.
        host: its index in the cluster; None if it is a device.
        slower: factor of the seconds.
        from_step, until_step: the first step that is slower, and the first that is not any more; counted from 1.
    """

    device: int | None = None
    host: int | None = None
    slower: float
    from_step: int = 1
    until_step: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmulatedWorld:
    """What devices and links really do.

    Attributes:
        cluster: with the devices in the order of the plan's.
        events: what is slower when.
        jitter: each action and message takes up to this part more or less, at random.
        seed: of the jitter.
        members: device -> the devices that it stands for, which wait for the slowest of them; empty: each is itself.
    """

    cluster: Cluster
    events: tuple[Event, ...] = ()
    jitter: float = 0.0
    seed: int = 0
    members: tuple[tuple[int, ...], ...] = ()

    def device_factor(self, device: int, step: int) -> float:
        """Factor of the seconds of a device in a step (counted from 1), without jitter."""
        now = [e for e in self.events if e.from_step <= step < e.until_step]
        members = self.members[device] if self.members else (device,)
        return max(math.prod(e.slower for e in now if e.device == d) for d in members)

    def link_factor(self, hosts: frozenset[int], step: int) -> float:
        """Factor of the seconds of a message between devices of these hosts, without jitter."""
        now = (e for e in self.events if e.from_step <= step < e.until_step)
        return math.prod(e.slower for e in now if e.host is not None and e.host in hosts)

    def noise(self, rank: int) -> Noise:
        """The jitter of one rank."""
        return Noise(random.Random(f"{self.seed}/{rank}"), self.jitter)


class Noise:
    """Random factors around 1."""

    def __init__(self, generator: random.Random, jitter: float) -> None:
        self._random = generator
        self._jitter = jitter

    def factor(self) -> float:
        """Between 1 - jitter and 1 + jitter, all equally likely."""
        return self._random.uniform(1.0 - self._jitter, 1.0 + self._jitter) if self._jitter else 1.0


def emulated_world(planned: Cluster, cluster: Cluster | None, changes: Path | None) -> EmulatedWorld:
    """The world of an emulated run.

    Args:
        planned: the cluster of the plan.
        cluster: what its devices and links really are; None: what the plan believes.
        changes: the YAML file of what changes; None: nothing does.

    Raises:
        InputError: the cluster has another number of devices, or the file is not of the form.
    """
    real = planned if cluster is None else cluster
    if real.num_devices != planned.num_devices:
        raise InputError(
            f"the emulated cluster {real.name!r} has {real.num_devices} devices, that of the plan "
            f"{planned.num_devices}: give one with as many"
        )
    return EmulatedWorld(cluster=real) if changes is None else _with_changes(real, changes)


def _with_changes(cluster: Cluster, path: Path) -> EmulatedWorld:
    data = parse_yaml(read_text(path, "emulated events"), str(path), InputError)
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: found {kind_of(data)}: write schema_version: {SCHEMA_VERSION}, jitter and events")
    if data.get("schema_version") != SCHEMA_VERSION:
        found = data.get("schema_version")
        raise InputError(f"{path}: schema_version is {found!r}: write schema_version: {SCHEMA_VERSION}")
    try:
        parsed = _Changes.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, sorted(_Event.model_fields))}") from error
    events = tuple(_event(cluster, event, f"{path}: event {i}") for i, event in enumerate(parsed.events, 1))
    return EmulatedWorld(cluster=cluster, events=events, jitter=parsed.jitter, seed=parsed.seed)


def _event(cluster: Cluster, event: _Event, where: str) -> Event:
    if (event.device is None) == (event.host is None):
        raise InputError(f"{where}: give either a device or a host")
    names = [h.name for h in cluster.hosts]
    if event.host is not None and event.host not in names:
        raise InputError(f"{where}: there is no host {event.host!r}: the cluster has {', '.join(names)}")
    if event.device is not None and event.device >= cluster.num_devices:
        raise InputError(f"{where}: there is no device {event.device}: the cluster has 0..{cluster.num_devices - 1}")
    until = math.inf if event.until_step is None else event.until_step
    if until <= event.from_step:
        raise InputError(f"{where}: it ends at step {until} and begins at {event.from_step}: it must end later")
    return Event(
        device=event.device,
        host=None if event.host is None else names.index(event.host),
        slower=event.slower,
        from_step=event.from_step,
        until_step=until,
    )
