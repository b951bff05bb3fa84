"""Older plan files: one step from each version to the next, so that only the newest form is read elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from drlpp.errors import PlanError
from drlpp.parsing import kind_of

SCHEMA_VERSION = 2
FORMAT = "drlpp-plan"


def migrated(data: object, where: str) -> dict[str, Any]:
    """The parsed JSON of a plan file of any version, in the form of `SCHEMA_VERSION`.

    Raises:
        PlanError: not a plan file, or of a version that this release does not know.
    """
    if not isinstance(data, Mapping):
        raise PlanError(f"{where}: found {kind_of(data)}: a plan is a JSON object")
    version = data.get("schema_version")
    known = isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= SCHEMA_VERSION
    if not known or data.get("format") != FORMAT:
        raise PlanError(
            f"{where}: format is {data.get('format')!r}, schema_version {version!r}: this release reads "
            f"{FORMAT!r} files of the versions 1 to {SCHEMA_VERSION} (made by `drlpp plan`)"
        )
    current = dict(data)
    while current["schema_version"] < SCHEMA_VERSION:
        current = _STEPS[current["schema_version"]](current, where)
    return current


def _replicas_as_groups(data: dict[str, Any], where: str) -> dict[str, Any]:
    """1 -> 2: a replica is a group of devices, and each device of version 1 is a group of its own."""
    stages = data.get("stages")
    if not isinstance(stages, list):
        return {**data, "schema_version": 2}
    new = []
    for i, stage in enumerate(stages):
        if not isinstance(stage, Mapping) or "replicas" in stage or not isinstance(stage.get("devices"), list):
            raise PlanError(f"{where}: stages.{i}: a stage of version 1 has a list 'devices', and no 'replicas'")
        rest = {key: value for key, value in stage.items() if key != "devices"}
        new.append({**rest, "replicas": [[device] for device in stage["devices"]]})
    return {**data, "schema_version": 2, "stages": new}


_STEPS: dict[int, Callable[[dict[str, Any], str], dict[str, Any]]] = {1: _replicas_as_groups}
"""Version -> what makes the next version of it."""
