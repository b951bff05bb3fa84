"""What is chosen of a stage beside its ops and its devices.

Assignments and stages carry a `StageSettings`, and what handles either of them passes it on as one value. So a new
property of stages is added here, where it is written to files (`serialize`, `schema`), where it is priced
(`cost.stage_costs`, and `cost.problem_arrays` for compiled code) and run (`runtime`), and where something chooses it.

Left out: how the devices of a replica divide the ops (`stage.Sharding`), which an assignment cannot choose: its devices
are whole replicas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from drlpp.errors import PlanError
from drlpp.graph.blocks import Recompute
from drlpp.plan.shares import Shares, lowest_terms


@dataclasses.dataclass(frozen=True, slots=True)
class StageSettings:
    """The settings of a stage.

    Attributes:
        recompute: what runs again before the backward pass; a flag will do for the whole stage.
        shares: of the micro-batches, one per replica (`plan.shares`); empty where they are equal.
    """

    recompute: Recompute = Recompute.NONE
    shares: Shares = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "recompute", Recompute(self.recompute))

    def fitted(self, num_replicas: int, stage: int) -> StageSettings:
        """The same with shares in lowest terms, for so many replicas.

        Args:
            stage: for messages.

        Raises:
            PlanError: the shares do not fit the replicas.
        """
        if not self.shares:
            return self
        return dataclasses.replace(self, shares=lowest_terms(self.shares, num_replicas, stage))

    @property
    def elsewhere(self) -> StageSettings:
        """The same for a stage on other devices: shares belong to the devices that had them."""
        return dataclasses.replace(self, shares=()) if self.shares else self

    @property
    def toggled(self) -> StageSettings:
        """The same with recomputation switched on or off."""
        return dataclasses.replace(self, recompute=Recompute(not self.recompute))

    @property
    def by_blocks(self) -> StageSettings:
        """The same, where repeated blocks run again if the whole stage did."""
        return dataclasses.replace(self, recompute=Recompute.BLOCK) if self.recompute == Recompute.STAGE else self


PLAIN = StageSettings()
"""Nothing is computed again, and all replicas have equal shares."""
AGAIN = StageSettings(recompute=Recompute.STAGE)
"""The whole stage is computed again."""


def fitted_to(settings: Sequence[StageSettings], devices: Sequence[tuple[int, ...]]) -> tuple[StageSettings, ...]:
    """Settings of stages on given devices. Args: `settings`: one per stage; empty for `PLAIN` ones.

    Raises:
        PlanError: there are more or fewer settings than stages, or shares do not fit the replicas.
    """
    if not settings:
        return (PLAIN,) * len(devices)
    if len(settings) != len(devices):
        raise PlanError(f"{len(settings)} settings for {len(devices)} stages: give one per stage")
    if not any(of_stage.shares for of_stage in settings):
        return tuple(settings)
    each = zip(settings, devices, strict=True)
    return tuple(of_stage.fitted(len(replicas), s) for s, (of_stage, replicas) in enumerate(each))


def as_columns(settings: Sequence[StageSettings]) -> dict[str, list[Any]]:
    """Settings of stages as a list per property, which JSON has; `of_columns` reads it."""
    return {f.name: [getattr(s, f.name) for s in settings] for f in dataclasses.fields(StageSettings)}


def of_columns(columns: Mapping[str, Any]) -> tuple[StageSettings, ...]:
    """What has been written as `as_columns`; a property that was not there yet has its default."""
    given = [name for f in dataclasses.fields(StageSettings) if (name := f.name) in columns]
    rows = zip(*(columns[name] for name in given), strict=True)
    return tuple(_of_row(dict(zip(given, row, strict=True))) for row in rows)


def _of_row(values: dict[str, Any]) -> StageSettings:
    properties: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
    return StageSettings(**properties)
