"""An assignment: partition and placement, before a schedule is made for it. What planners search over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drlpp.errors import PlanError
from drlpp.graph.blocks import Recompute
from drlpp.plan.shares import Shares, lowest_terms


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Which stage each op is in, and which devices run each stage.

    Attributes:
        stage_of_op: ``[num_ops]`` stage indices ``0..S-1`` without gaps.
        devices: per stage, its replicas.
        recompute: a `Recompute` per stage, where flags will do for its first two; empty means none.
        shares: per stage, the shares of its replicas (`plan.shares`): kept in lowest terms, empty where they are equal.

    Raises:
        PlanError: lengths do not agree, a stage has no device or one twice, or a share is below 1.
    """

    stage_of_op: NDArray[np.int64]
    devices: tuple[tuple[int, ...], ...]
    recompute: tuple[int, ...] = ()
    shares: tuple[Shares, ...] = ()

    def __post_init__(self) -> None:
        if not self.recompute:
            object.__setattr__(self, "recompute", (False,) * len(self.devices))
        if len(self.recompute) != len(self.devices):
            raise PlanError(f"{len(self.recompute)} recompute flags for {len(self.devices)} stages: give one per stage")
        for s, devices in enumerate(self.devices):
            if not devices or len(set(devices)) < len(devices):
                raise PlanError(f"stage {s} has devices {list(devices)}: give at least one, each once")
        object.__setattr__(self, "shares", self._lowest_shares())

    def _lowest_shares(self) -> tuple[Shares, ...]:
        if not any(self.shares):
            return ((),) * len(self.devices)
        if len(self.shares) != len(self.devices):
            raise PlanError(f"shares are given for {len(self.shares)} stages: there are {len(self.devices)}")
        each = zip(self.shares, self.devices, strict=True)
        return tuple(lowest_terms(shares, len(devices), s) for s, (shares, devices) in enumerate(each))

    @property
    def num_stages(self) -> int:
        return len(self.devices)

    @classmethod
    def compact(
        cls,
        labels: NDArray[np.int64],
        devices: Mapping[int, tuple[int, ...]] | Sequence[tuple[int, ...]],
        recompute: Sequence[int] = (),
        shares: Sequence[Shares] = (),
    ) -> Assignment:
        """From labels with gaps: labels that no op has are dropped and the rest are numbered in order.

        Args:
            labels: ``[num_ops]``.
            devices: by label.
            recompute: by label; empty means none.
            shares: by label; empty means equal ones.
        """
        used, stage_of_op = np.unique(labels, return_inverse=True)
        return cls(
            stage_of_op.astype(np.int64),
            tuple(devices[s] for s in used.tolist()),
            tuple(recompute[s] for s in used.tolist()) if recompute else (),
            tuple(shares[s] for s in used.tolist()) if shares else (),
        )

    @property
    def key(self) -> bytes:
        """Equal for equal assignments."""
        return self.stage_of_op.tobytes() + repr((self.devices, self.recompute, self.shares)).encode()

    @property
    def record(self) -> dict[str, Any]:
        """As numbers, lists and names; `of_record` reads it."""
        return {**dataclasses.asdict(self), "stage_of_op": self.stage_of_op.tolist()}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Assignment:
        """What has been written as `record`."""
        devices, shares = (tuple(map(tuple, record.get(name, ()))) for name in ("devices", "shares"))
        return cls(np.array(record["stage_of_op"]), devices, tuple(record["recompute"]), shares)

    def rearranged(
        self, labels: NDArray[np.int64], devices: Sequence[tuple[int, ...]], origin: Sequence[int]
    ) -> Assignment:
        """Other stages, of which each takes all but its ops and devices from a stage of this assignment.

        Shares stay where the devices do.

        Args:
            labels: ``[num_ops]`` new stages, without gaps.
            devices: of each new stage.
            origin: of each new stage, the stage that it comes from.
        """
        stay = ((s, group == self.devices[s]) for s, group in zip(origin, devices, strict=True))
        shares = tuple(self.shares[s] if same else () for s, same in stay)
        return Assignment(labels, tuple(devices), tuple(self.recompute[s] for s in origin), shares)

    def with_recompute_toggled(self, stage: int) -> Assignment:
        """The same with recomputation of one stage switched."""
        flags = tuple(not flag if s == stage else flag for s, flag in enumerate(self.recompute))
        return dataclasses.replace(self, recompute=flags)

    def with_blocks_again(self) -> Assignment:
        """The same with the repeated blocks of a stage computed again where the whole stage was."""
        flags = tuple(Recompute.BLOCK if flag == Recompute.STAGE else flag for flag in self.recompute)
        return dataclasses.replace(self, recompute=flags)

    def with_labels(self, labels: NDArray[np.int64]) -> Assignment:
        """The same devices, flags and shares with other labels, which may leave stages empty."""
        return self.compact(labels, self.devices, self.recompute, self.shares)
