"""What part of a device's peaks its kernels reach, by class of op and element type: `device_rates.csv`.

The table holds figures only; ``benchmarks/calibrate_devices.py`` fits and writes them from published measurements and
names the source of each row. A device without a row of a class takes that of the device of the same or the nearest chip
(`rates_of` in `cluster/devices.csv`), else the row ``*``, which holds for devices of which nothing was measured.

Left out: what other processes on the device do.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Literal

from drlpp.cluster.devices import similar_device

OpClass = Literal["product", "attention", "convolution", "fast-convolution", "recurrent", "memory"]
ANY = "*"
"""Name of the rows that hold for every device and every element type."""
_CONVOLUTIONS = ("convolution", "fast-convolution")


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What kernels of one class reach on one device.

    Attributes:
        compute: part of the peak in FLOP/s.
        memory: part of the memory bandwidth.
        launch_s: seconds of an empty kernel.
        blend: exponent that joins seconds of compute and of memory: 1 adds them, a large one takes the larger.
        fill_outputs: elements of a product's result at which half of the device is busy.
        depth: length of the sums of a product at which half of its time is spent on sums.
        cache_bytes, cache_gain: a product of fewer bytes finds this part of them in the cache.
        sag: by how much longer a long kernel computes, as clocks fall under load where the power is limited.
        error: mean relative error over the rows that the figures were fitted to; None where none were.
        source: the measurements, or why there are none.
    """

    compute: float
    memory: float
    launch_s: float
    blend: float = 3.0
    fill_outputs: float = 0.0
    depth: float = 0.0
    cache_bytes: float = 0.0
    cache_gain: float = 0.0
    sag: float = 0.0
    error: float | None = None
    source: str = ""


@functools.cache
def device_rates() -> Mapping[tuple[str, str, str], Rates]:
    """(device, class, element type) -> rates: all rows of the table."""
    text = resources.files("drlpp.cost").joinpath("device_rates.csv").read_text(encoding="utf-8")
    return {(r["device"], r["op_class"], r["dtype"]): rates_of_row(r) for r in csv.DictReader(text.splitlines())}


def rates_of_row(row: Mapping[str, str]) -> Rates:
    """A row of the table, as text by column."""

    def number(column: str) -> float:
        return float(row[column] or 0.0)

    return Rates(
        compute=number("compute"),
        memory=number("memory"),
        launch_s=number("launch_us") * 1e-6,
        blend=number("blend"),
        fill_outputs=number("fill_outputs"),
        depth=number("depth"),
        cache_bytes=number("cache_mb") * 1e6,
        cache_gain=number("cache_gain"),
        sag=number("sag"),
        error=number("error_pct") / 100 if row["error_pct"] else None,
        source=row["source"],
    )


def op_class(kind: str) -> OpClass | None:
    """The class that the kind of an op names; None if it names none."""
    name = kind.lower()
    if "attention" in name:
        return "attention"
    if "conv" in name and name.endswith(".channels_last"):
        return "product"  # what the library computes then: the products of a matrix that it never stores
    if "conv" in name:
        return "fast-convolution" if name.endswith((".3x3", ".5x5")) else "convolution"
    if any(word in name for word in ("lstm", "gru", "rnn")):
        return "recurrent"
    words = name.removeprefix("aten.").split(".")
    return "product" if any(w in _PRODUCTS for w in words) else None


_PRODUCTS = ("linear", "mm", "addmm", "bmm", "baddbmm", "matmul", "einsum", "_scaled_mm", "bilinear")


def rates(preset: str, kind: OpClass, dtype: str) -> Rates:
    """The rates of a class on a device of the database (or of none: an empty name)."""
    table = device_rates()
    for device in _devices(preset):
        for op in _classes(kind):
            for element in _dtypes(dtype):
                if (device, op, element) in table:
                    return table[device, op, element]
    return table[ANY, ANY, ANY]


def _devices(preset: str) -> Iterator[str]:
    while preset:
        yield preset
        preset = similar_device(preset)
    yield ANY


def _classes(kind: OpClass) -> tuple[str, ...]:
    return (kind, "convolution") if kind in _CONVOLUTIONS else (kind,)


def _dtypes(dtype: str) -> tuple[str, ...]:
    other = {"bfloat16": "float16", "float16": "bfloat16", "tf32": "bfloat16"}
    return (dtype, other[dtype], ANY) if dtype in other else (dtype, ANY)
