"""What a result depends on besides its case, planner and seed: budget, versions, and this package's own code."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from drlpp._version import __version__

PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("torch", "numpy", "timm", "transformers", "highspy")
_CANNOT_MATTER = ("cli", "report", "export", "runtime", "bench")
"""Rooms that no plan depends on."""


def settings(budget_s: float, cpu_time: bool = False) -> dict[str, Any]:
    """What must be equal for a row of an earlier run to count.

    `clock` says whether the budget is in wall-clock seconds or in seconds of processor time of this process.
    `code` is a digest of the source files and the weights that planning depends on.
    """
    versions = {"drlpp": __version__} | {name: _version(name) for name in _LIBRARIES}
    clock = "cpu" if cpu_time else "wall"
    return {"budget_s": budget_s, "clock": clock, "versions": versions, "code": code_digest()}


def difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """For people: the first thing that differs between two `settings`; empty if nothing does."""
    for key, value in now.items():
        before = then.get(key)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            return difference(before, value)
        return f"{key} was {before} and is {value}"
    return ""


def machine() -> str:
    """Commit, processor, system load and versions, in one line."""
    return (
        f"commit {commit() or 'unknown'}, {os.cpu_count()} cores ({platform.machine()}), "
        f"load {os.getloadavg()[0]:.1f}, torch {_version('torch')}"
    )


def commit() -> str:
    """Short name of the commit of the checkout that the package is in; empty outside of one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=PACKAGE
        )
    except OSError:
        return ""
    return found.stdout.strip()


@functools.cache
def code_digest() -> str:
    """Digest of the files of the package that plans depend on."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        parts = path.relative_to(PACKAGE).parts
        if path.is_file() and parts[0] not in _CANNOT_MATTER and path.suffix in (".py", ".json", ".safetensors"):
            digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
