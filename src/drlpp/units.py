"""Parsing and printing of quantities. Inside DRL-PP everything is in SI base units: s, bytes, bytes/s, FLOP/s.

This is the only module that knows prefixes. Bytes use decimal prefixes (``80GB`` = 80e9) and binary ones when
written so (``80GiB``); bits are divided by eight (``25Gbit/s`` = 3.125e9 bytes/s).
"""

from __future__ import annotations

import math
import re

from drlpp.errors import InputError

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_BYTES = {f"{p}B": f for p, f in (_DECIMAL | _BINARY).items()}
_BITS = {f"{p}{bit}": f / 8 for p, f in _DECIMAL.items() for bit in ("bit", "b")}
_BANDWIDTH = {
    **{f"{unit}/s": factor for unit, factor in (_BYTES | _BITS).items()},
    **{f"{prefix}bps": factor / 8 for prefix, factor in _DECIMAL.items()},
}
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_FLOPS = {f"{p}{unit}": f for p, f in _DECIMAL.items() for unit in ("FLOP/s", "FLOPS", "FLOPs", "flop/s")}

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s].*?)?\s*$")

_MOST_BITS = 1023
"""Whole numbers of more bits are beyond the largest double."""


def _parse(value: object, units: dict[str, float], what: str, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InputError(f"{value!r} is not {what}: give a number in SI units or a string such as {example!r}")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise InputError(f"a number of {value.bit_length()} bits is not {what}: it must be finite in double precision")
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.match(value)
        unit = (match.group(2) or "") if match else None
        if match is None or (unit and unit not in units):
            raise InputError(f"{value!r} is not {what}: write a number and a unit, such as {example!r}")
        number = float(match.group(1)) * (units[unit] if unit else 1.0)
    else:
        number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{value!r} is not {what}: it must be finite")
    return number


def parse_bytes(value: object) -> int:
    """Parses an amount of memory (``16GB``, ``16GiB``, ``1e9``) to bytes. Raises InputError."""
    return round(_parse(value, _BYTES, "an amount of memory", "16GB"))


def parse_bandwidth(value: object) -> float:
    """Parses a bandwidth (``25Gbit/s``, ``300GB/s``, ``1e9``) to bytes per second. Raises InputError."""
    return _parse(value, _BANDWIDTH, "a bandwidth", "25Gbit/s")


def parse_time(value: object) -> float:
    """Parses a duration (``5us``, ``0.1``) to seconds. Raises InputError."""
    return _parse(value, _TIME, "a duration", "5us")


def parse_flops(value: object) -> float:
    """Parses a rate of computation (``312TFLOP/s``) to FLOP per second. Raises InputError."""
    return _parse(value, _FLOPS, "a compute rate", "312TFLOP/s")


def _scaled(value: float, unit: str, prefixes: tuple[tuple[str, float], ...]) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    prefix, factor = next((p for p in prefixes if abs(value) >= p[1] * 0.9995), prefixes[-1])
    number = value / factor
    return f"{number:.3g} {prefix}{unit}" if abs(number) < 999.5 else f"{number:.0f} {prefix}{unit}"


_PRINT_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def format_bytes(value: float) -> str:
    """``1.5e9`` -> ``'1.5 GB'``."""
    return _scaled(value, "B", _PRINT_PREFIXES)


def format_bandwidth(value: float) -> str:
    """``3.125e9`` -> ``'3.12 GB/s'``."""
    return _scaled(value, "B/s", _PRINT_PREFIXES)


def format_flop(value: float) -> str:
    """``4.1e9`` -> ``'4.1 GFLOP'``."""
    return _scaled(value, "FLOP", _PRINT_PREFIXES)


def format_time(value: float) -> str:
    """``0.0123`` -> ``'12.3 ms'``."""
    return _scaled(value, "s", (("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)))
