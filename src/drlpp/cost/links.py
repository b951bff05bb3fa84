"""Seconds of transfers: the only Python place of this price (compiled: src/native/cost/links.h).

A transfer occupies its path, a channel inside a host or the ports of two hosts, for bytes / bandwidth. It arrives the
latency after that.
"""

from __future__ import annotations

from drlpp.cluster import Link


def wire_s(path: Link, num_bytes: float) -> float:
    """Seconds that a transfer of `num_bytes` occupies its path."""
    return num_bytes / path.bandwidth


def transfer_s(path: Link, num_bytes: float) -> float:
    """Seconds from the start of a transfer of `num_bytes` to its arrival, on an idle network."""
    return wire_s(path, num_bytes) + path.latency_s
