"""The unknowns of a calibration: logarithms of factors on what the database says, with their prior deviations.

===========  =============================  ========================================================================
unknown      one per                        prior standard deviation
===========  =============================  ========================================================================
``model``    (all devices)                  0.5: what the database gets wrong of this model
``type``     type of device                 0.6: twice as slow is nothing unusual
``device``   device                         0.2: devices of a type are alike
``class``    class of op, forward or back   0.25: the database knows classes better than machines
``own``      type and class of op           0.15: classes are off by about the same on all types
``backward`` type                           0.15
``action``   (all devices)                  1.5, around a small part of the typical action: what it takes besides ops
``scope``    links inside hosts, networks   0.7
``wire``     kind of link                   0.7: together, four times as slow is nothing unusual
``port``     host and kind of link          0.2: hosts of a kind are alike
``latency``  kind of link                   1.5
``edges``    (graphs with transfer times)   1.0
===========  =============================  ========================================================================

The time of an action on a device is ``action + sum over its ops of database time x exp(model + type + device +
class + own + backward)``; a transfer takes ``latency x exp(latency) + bytes / (bandwidth / exp(scope + wire + port))``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, Link
from drlpp.cost.device_rates import OpClass
from drlpp.cost.op_times import op_classes
from drlpp.graph import OpGraph

Floats = NDArray[np.float64]
PRIOR = {
    "model": 0.5,
    "type": 0.6,
    "device": 0.2,
    "class": 0.25,
    "own": 0.15,
    "backward": 0.15,
    "action": 1.5,
    "scope": 0.7,
    "wire": 0.7,
    "port": 0.2,
    "latency": 1.5,
    "edges": 1.0,
}
INSIDE, NETWORK = "inside", "network"
SHORTEST_LATENCY_S = 1e-7
"""In place of a latency of 0, which no factor could change."""


@dataclasses.dataclass(frozen=True)
class Unknowns:
    """Where each unknown is in the vector of all.

    Attributes:
        types: names of the types of devices.
        classes: of the ops of the graph.
        class_of_op: ``[N]`` index into `classes`.
        link_kinds: (inside or network, its links): hosts with equal ones share `wire` and `latency`.
        link_kind: (inside or network, host) -> index into `link_kinds`.
        position: (unknown, what it is of) -> position.
    """

    types: tuple[str, ...]
    classes: tuple[OpClass, ...]
    class_of_op: NDArray[np.int64]
    link_kinds: tuple[tuple[str, tuple[Link, ...]], ...]
    link_kind: dict[tuple[str, int], int]
    position: dict[tuple[str, tuple[int, ...]], int]

    @property
    def prior_deviation(self) -> Floats:
        """``[P]``."""
        return np.array([PRIOR[name] for name, _ in self.position])

    def at(self, name: str, *of: int) -> int:
        """The position of an unknown."""
        return self.position[name, of]

    def positions_of_op_factor(self, kind: int, device: int, op_class: int, *, backward: bool) -> list[int]:
        """The unknowns whose sum is the logarithm of the factor of ops of a class on a device of type `kind`."""
        found = [self.at("model"), self.at("type", kind), self.at("device", device)]
        found += [self.at("class", op_class, int(backward)), self.at("own", kind, op_class)]
        return [*found, self.at("backward", kind)] if backward else found

    def positions_of_wire(self, scope: str, host: int) -> list[int]:
        """The unknowns whose sum is the logarithm of the factor of seconds per byte of a host's links."""
        which, _ = port = self.port(scope, host)
        return [self.at("scope", which), self.at("wire", self.link_kind[scope, host]), self.at("port", *port)]

    @staticmethod
    def port(scope: str, host: int) -> tuple[int, int]:
        """What `port` is of."""
        return (0 if scope == INSIDE else 1), host


def unknowns(graph: OpGraph, cluster: Cluster) -> Unknowns:
    """The unknowns of a model on a cluster."""
    found = op_classes(graph)
    classes = tuple(dict.fromkeys(found))
    scopes: dict[tuple[str, int], tuple[Link, ...]] = {}
    for h, host in enumerate(cluster.hosts):
        if host.all_links:
            scopes[INSIDE, h] = host.all_links
        if host.network is not None and len(cluster.hosts) > 1:
            scopes[NETWORK, h] = (host.network,)
    kinds = tuple(dict.fromkeys((scope, links) for (scope, _), links in scopes.items()))
    num_types, num_kinds = len(cluster.device_types), len(kinds)
    names: list[tuple[str, tuple[int, ...]]] = [("model", ()), ("action", ()), ("scope", (0,)), ("scope", (1,))]
    for t in range(num_types):
        names += [("type", (t,)), ("backward", (t,))]
        names += [("own", (t, c)) for c in range(len(classes))]
    names += [("class", (c, back)) for c in range(len(classes)) for back in (0, 1)]
    names += [("device", (d,)) for d in range(cluster.num_devices)]
    names += [(name, (k,)) for k in range(num_kinds) for name in ("wire", "latency")]
    names += [("port", Unknowns.port(scope, h)) for scope, h in scopes]
    if graph.has_transfer_times:
        names.append(("edges", ()))
    return Unknowns(
        types=tuple(t.name for t in cluster.device_types),
        classes=classes,
        class_of_op=np.array([classes.index(c) for c in found]),
        link_kinds=kinds,
        link_kind={key: kinds.index((key[0], links)) for key, links in scopes.items()},
        position={name: i for i, name in enumerate(names)},
    )
