"""What is known of each device of the database: peaks, and how well its op times agree with measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from drlpp.cluster import device_presets
from drlpp.cluster.devices import similar_device
from drlpp.cost.device_rates import device_rates

_TYPICAL_ERROR = "15 to 30 %"
"""What devices with measurements are off by if they are given another device's row (median over pairs of a family)."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceSummary:
    """A device of the database.

    Attributes:
        name, source: of the row; where its peaks come from.
        memory_bytes, peak_flops: of the row.
        errors: element type -> class of op -> mean relative error of the ops, or of the layers with such ops, that
            were measured. Above 1 the times of the class tell little: a few short kernels took many times as long.
        sources: names of the sets of measurements, each once.
        without: where nothing was measured: what its op times are, and how far off they may be.
    """

    name: str
    source: str
    memory_bytes: int
    peak_flops: tuple[tuple[str, float], ...]
    errors: Mapping[str, Mapping[str, float]]
    sources: tuple[str, ...]
    without: str

    def as_dict(self) -> dict[str, Any]:
        """The JSON-ready form."""
        return {
            "memory_bytes": self.memory_bytes,
            "peak_flops": dict(self.peak_flops),
            "source": self.source,
            "measured_error": {dtype: dict(found) for dtype, found in self.errors.items()},
            "measured_by": list(self.sources),
            "without_measurements": self.without,
        }


def device_summaries() -> list[DeviceSummary]:
    """A summary per device, in the order of the database."""
    return [_summary(name) for name in device_presets()]


def _summary(name: str) -> DeviceSummary:
    device = device_presets()[name]
    errors: dict[str, dict[str, float]] = {}
    sources: dict[str, None] = {}
    for (owner, kind, dtype), rate in device_rates().items():
        if owner == name and rate.error is not None:
            errors.setdefault(dtype, {})[kind] = rate.error
            sources |= dict.fromkeys(rate.source.partition(";")[0].split(" and "))
    return DeviceSummary(
        name=name,
        source=device.source,
        memory_bytes=device.memory_bytes,
        peak_flops=device.peak_flops,
        errors=errors,
        sources=tuple(sources),
        without="" if errors else _without(name),
    )


def _without(name: str) -> str:
    like = similar_device(name)
    taken = f"not measured: efficiencies of {like}" if like else "not measured: medians of all devices"
    return f"{taken}, off by {_TYPICAL_ERROR} or more"
