"""The device database (`devices.csv`): dense peak rates, memory and memory bandwidth, each row with its source.

Peaks are in TFLOP/s, without sparsity. ``float32`` is the rate that PyTorch gets by default (no TF32 for matrix
products); ``tf32``, ``bfloat16`` and ``float16`` are tensor-core or matrix-core rates. Memory is the nominal size in
decimal bytes as the vendor prints it. `speed` is the float32 peak relative to the V100, the device of most published
profiles. What part of the peaks real kernels reach is in `drlpp.cost.device_rates`.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from importlib import resources

from drlpp.cluster.cluster import DeviceType
from drlpp.errors import ClusterError, did_you_mean

_T, _GB = 1e12, 10**9
_DTYPES = ("float32", "tf32", "bfloat16", "float16")
REFERENCE_PRESET = "v100-sxm2-16gb"
"""Device that `DeviceType.speed` is relative to."""
REFERENCE_TFLOPS = 15.7
HOST_OP_S = 2.6e-5
"""Seconds that the host of a GPU needs per kernel of an eager program (`benchmarks/calibrate_devices.py`)."""
_WITHOUT_HOST = ("cpu-core", "tpu-v4-32gb")
"""Devices that are their own host, or run compiled programs only."""
CPU_PRESET = "cpu-core"
"""The one row of the database that is no accelerator."""


@functools.cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    text = resources.files("drlpp.cluster").joinpath("devices.csv").read_text(encoding="utf-8")
    return {row["name"]: row for row in csv.DictReader(text.splitlines())}


@functools.cache
def _devices() -> Mapping[str, DeviceType]:
    return {name: _device(row) for name, row in _rows().items()}


def _device(row: Mapping[str, str]) -> DeviceType:
    return DeviceType(
        name=row["name"],
        preset=row["name"],
        memory_bytes=round(float(row["memory_gb"]) * _GB),
        memory_bandwidth=float(row["bandwidth_gb_s"]) * 1e9,
        peak_flops=tuple((dtype, float(row[dtype]) * _T) for dtype in _DTYPES if row[dtype]),
        speed=float(row["float32"]) / REFERENCE_TFLOPS,
        source=row["source"],
        host_op_s=0.0 if row["name"] in _WITHOUT_HOST else HOST_OP_S,
    )


def device_presets() -> dict[str, DeviceType]:
    """Name -> device type of the database."""
    return dict(_devices())


def device_preset(name: str) -> DeviceType:
    """A row of the database. Raises ClusterError that lists the known names."""
    known = _devices()
    if name not in known:
        raise ClusterError(
            f"device preset {name!r} is not known: {did_you_mean(name, known)}use one of {', '.join(known)}"
        )
    return known[name]


def similar_device(name: str) -> str:
    """The device whose rates stand in where `name` has none: the same chip or the same generation; empty if none."""
    row = _rows().get(name)
    return row["rates_of"] if row else ""


def preset_of_gpu(name: str) -> str:
    """The device of the database that a GPU is, by the name that CUDA or ROCm reports; empty if none is known."""
    known = [(alias, preset) for preset, row in _rows().items() for alias in row["reported_as"].split("|") if alias]
    found = [(len(alias), preset) for alias, preset in known if _is_part(alias, name.lower())]
    return max(found)[1] if found else ""


def _is_part(alias: str, name: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(alias)}(?![a-z0-9])", name) is not None
