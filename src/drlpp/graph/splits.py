"""How an op may be divided among the members of a group of devices: which operands and results are cut, and where.

A split cuts one axis of an op's work in equal parts, one per member. An operand that has the axis is cut along it.
An operand without it is whole on every member, and each member finds a part of the sum that is its gradient. A result
that has the axis comes out cut; where the op sums over the axis, each member has a part of the sum.

Cuts along the samples are not splits: replicas of a stage do that.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from drlpp.errors import GraphError

PARTIAL_SUM = -1
"""In the place of a dimension: every member has the whole shape, and the sum over the members is the value."""


class Part(NamedTuple):
    """How a tensor, parameter or buffer lies on the members.

    Attributes:
        tensor: its name in the graph; a parameter or buffer by its dotted name.
        dim: the dimension that is cut, or `PARTIAL_SUM`.
        sections: lengths of the sections that follow each other along `dim`, over and over until it is full; each is
            cut for itself: member j has the j-th part of every section. Empty: the dimension is one section. (Queries,
            keys and values of width 64 in one tensor are ``(64,)``, three times.)
    """

    tensor: str
    dim: int
    sections: tuple[int, ...] = ()


class MemberTimes(NamedTuple):
    """Measured seconds of one member of a group on one micro-batch, with what the members exchange inside the op.

    Attributes:
        degree: members of the group.
        forward_s, input_grad_s, weight_grad_s: of the three parts.
    """

    degree: int
    forward_s: float
    input_grad_s: float
    weight_grad_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """One way to divide an op.

    Of an op that gives a partial sum, one member alone adds what is no part of the sum (a bias).

    Attributes:
        axis: what is divided: ``columns``, ``rows``, ``heads``, ``vocabulary``, ``sequence``, ``features`` and others.
        size: length of the axis; a degree must divide it.
        reads: what the op reads cut. Everything else that it reads is whole on every member, and its gradient is a
            partial sum.
        gives: results that come out cut or as partial sums. All other results are whole and equal on every member.
        keeps: of the tensors that the op saves for the backward pass, those of which a member keeps its part only.
        times: measured times, for the degrees that were measured; none: they follow from the work.

    Raises:
        GraphError: a size below 2, a negative dimension, sections that are not positive, or times that are no seconds.
    """

    axis: str
    size: int
    reads: tuple[Part, ...] = ()
    gives: tuple[Part, ...] = ()
    keeps: tuple[str, ...] = ()
    times: tuple[MemberTimes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 2:
            raise GraphError(f"a split along {self.axis!r} has size {self.size}: an axis of at least 2 can be divided")
        for part, lowest in [(p, 0) for p in self.reads] + [(p, PARTIAL_SUM) for p in self.gives]:
            if part.dim < lowest:
                raise GraphError(
                    f"a split along {self.axis!r} names dimension {part.dim} of {part.tensor!r}: dimensions count from "
                    f"0, and only a result may be a partial sum ({PARTIAL_SUM})"
                )
            if min(part.sections, default=1) < 1:
                raise GraphError(
                    f"a split along {self.axis!r} has sections {part.sections} of {part.tensor!r}: each must be at "
                    "least 1 long"
                )

        for times in self.times:
            if times.degree < 2 or not all(math.isfinite(s) and s >= 0 for s in times[1:]):
                raise GraphError(
                    f"a split along {self.axis!r} has times {tuple(times)}: a degree of at least 2 and seconds "
                    "that are finite and not negative are needed"
                )

    def measured(self, degree: int) -> MemberTimes | None:
        """What one of `degree` members was measured to take."""
        return next((times for times in self.times if times.degree == degree), None)

    def scaled(self, samples: int, before: int) -> Split:
        """The split of an op on `samples` samples, where this is that on `before`."""
        times = (MemberTimes(t.degree, *(part * samples / before for part in t[1:])) for t in self.times)
        return dataclasses.replace(self, times=tuple(times)) if self.times else self

    def fits(self, degree: int) -> bool:
        """Whether `degree` members can have equal parts."""
        if self.times and self.measured(degree) is None:
            return False
        return self.size % degree == 0 and all(
            length % degree == 0 for part in (*self.reads, *self.gives) for length in part.sections
        )

    def read(self, tensor: str) -> Part | None:
        """How it reads a tensor, parameter or buffer; None for whole."""
        return next((part for part in self.reads if part.tensor == tensor), None)

    def given(self, tensor: str) -> Part | None:
        """How it gives a result; None for whole."""
        return next((part for part in self.gives if part.tensor == tensor), None)
