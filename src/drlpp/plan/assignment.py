"""An assignment: partition and placement, before a schedule is made for it. What planners search over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Which stage each op is in, and which devices run each stage.

    Attributes:
        stage_of_op: ``[num_ops]`` stage indices ``0..S-1`` without gaps.
        devices: per stage, its replicas.
        recompute: per stage; empty means none.

    Raises:
        PlanError: lengths do not agree, or a stage has no device or one twice.
    """

    stage_of_op: NDArray[np.int64]
    devices: tuple[tuple[int, ...], ...]
    recompute: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.recompute:
            object.__setattr__(self, "recompute", (False,) * len(self.devices))
        if len(self.recompute) != len(self.devices):
            raise PlanError(f"{len(self.recompute)} recompute flags for {len(self.devices)} stages: give one per stage")
        for s, devices in enumerate(self.devices):
            if not devices or len(set(devices)) < len(devices):
                raise PlanError(f"stage {s} has devices {list(devices)}: give at least one, each once")

    @property
    def num_stages(self) -> int:
        return len(self.devices)

    @classmethod
    def compact(
        cls,
        labels: NDArray[np.int64],
        devices: Mapping[int, tuple[int, ...]] | Sequence[tuple[int, ...]],
        recompute: Sequence[bool] = (),
    ) -> Assignment:
        """From labels with gaps: labels that no op has are dropped and the rest are numbered in order.

        Args:
            labels: ``[num_ops]``.
            devices: by label.
            recompute: by label; empty means none.
        """
        used, stage_of_op = np.unique(labels, return_inverse=True)
        return cls(
            stage_of_op.astype(np.int64),
            tuple(devices[s] for s in used.tolist()),
            tuple(recompute[s] for s in used.tolist()) if recompute else (),
        )

    def with_labels(self, labels: NDArray[np.int64]) -> Assignment:
        """The same devices and flags with other labels, which may leave stages empty."""
        return self.compact(labels, self.devices, self.recompute)
