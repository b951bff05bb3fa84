"""An assignment: partition and placement, before a schedule is made for it. What planners search over."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError
from drlpp.plan.settings import StageSettings, as_columns, fitted_to, of_columns


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Which stage each op is in, and which devices run each stage.

    Attributes:
        stage_of_op: ``[num_ops]`` stage indices ``0..S-1`` without gaps.
        devices: per stage, its replicas.
        settings: per stage, what else is chosen of it; given as empty where all are plain.

    Raises:
        PlanError: lengths do not agree, a stage has no device or one twice, or shares do not fit its replicas.
    """

    stage_of_op: NDArray[np.int64]
    devices: tuple[tuple[int, ...], ...]
    settings: tuple[StageSettings, ...] = ()

    def __post_init__(self) -> None:
        for s, devices in enumerate(self.devices):
            if not devices or len(set(devices)) < len(devices):
                raise PlanError(f"stage {s} has devices {list(devices)}: give at least one, each once")
        object.__setattr__(self, "settings", fitted_to(self.settings, self.devices))

    @property
    def num_stages(self) -> int:
        return len(self.devices)

    @classmethod
    def compact(
        cls,
        labels: NDArray[np.int64],
        devices: Mapping[int, tuple[int, ...]] | Sequence[tuple[int, ...]],
        settings: Sequence[StageSettings] = (),
    ) -> Assignment:
        """From labels with gaps: labels that no op has are dropped and the rest are numbered in order.

        Args:
            labels: ``[num_ops]``.
            devices: by label.
            settings: by label; empty where all are plain.
        """
        used, stage_of_op = np.unique(labels, return_inverse=True)
        return cls(
            stage_of_op.astype(np.int64),
            tuple(devices[s] for s in used.tolist()),
            tuple(settings[s] for s in used.tolist()) if settings else (),
        )

    @property
    def key(self) -> Hashable:
        """Equal for equal assignments."""
        return self.stage_of_op.tobytes(), self.devices, self.settings

    @property
    def record(self) -> dict[str, Any]:
        """As numbers, lists and names; `of_record` reads it."""
        return {
            "stage_of_op": self.stage_of_op.tolist(),
            "devices": self.devices,
            **as_columns(self.settings),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Assignment:
        """What has been written as `record`."""
        return cls(np.array(record["stage_of_op"]), tuple(map(tuple, record["devices"])), of_columns(record))

    def rearranged(
        self, labels: NDArray[np.int64], devices: Sequence[tuple[int, ...]], origin: Sequence[int]
    ) -> Assignment:
        """Other stages, of which each takes its settings from a stage of this one, as far as they suit its devices.

        Args:
            labels: ``[num_ops]`` new stages, without gaps.
            devices: of each new stage.
            origin: of each new stage, the stage that it comes from.
        """
        each = ((self.settings[s], group == self.devices[s]) for s, group in zip(origin, devices, strict=True))
        settings = tuple(given if same else given.elsewhere for given, same in each)
        return Assignment(labels, tuple(devices), settings)

    def with_settings(self, stage: int, settings: StageSettings) -> Assignment:
        """The same with other settings of one stage."""
        return dataclasses.replace(self, settings=(*self.settings[:stage], settings, *self.settings[stage + 1 :]))

    def with_blocks_again(self) -> Assignment:
        """The same with the repeated blocks of a stage computed again where the whole stage was; itself if none was."""
        settings = tuple(given.by_blocks for given in self.settings)
        return self if settings == self.settings else dataclasses.replace(self, settings=settings)

    def with_labels(self, labels: NDArray[np.int64]) -> Assignment:
        """The same devices and settings with other labels, which may leave stages empty."""
        return self.compact(labels, self.devices, self.settings)
