"""What the ranks agree on before a step: what they were given, and whether all of them can go on.

Every rank looks at its own batch, and may know less than the others (a rank is given what its stages read) or be at
fault (a wrong shape, gradients switched off). A step that only some ranks begin hangs, so all of them vote first. The
vote of an ordinary step is three numbers; only where a rank has something to say do all exchange what they know. A
problem of one rank is then an error on every rank, and the next step works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from drlpp.errors import InputError
from drlpp.runtime.transfers.waiting import wait_for_all

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> shape, of one micro-batch."""
_ABOVE = 1 << 32
"""Above every digest."""
_CPU = torch.device("cpu")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one rank knows of the next step.

    Attributes:
        mode: a step of training, or an evaluation.
        given: the rank was given micro-batches; False: they are to be drawn; None: it has no use for them.
        shapes: per micro-batch, of the inputs that it was given.
        samples: per micro-batch, if the rank can tell.
        weights: per micro-batch, as the user gave them.
        count: what the sum of losses is divided by, as the user gave it.
        trained: parameter -> whether it is trained, for those that this rank holds.
        digests: input -> number that tells other values apart, for those that the rank was given.
        copies: the copies of parameters should be compared, or brought up to date, first.
        problem: why the step cannot be run; empty if it can.
    """

    mode: Literal["train", "evaluate"]
    given: bool | None = None
    shapes: tuple[Shapes, ...] = ()
    samples: tuple[int, ...] | None = None
    weights: tuple[float, ...] | None = None
    count: float | None = None
    trained: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, int] = dataclasses.field(default_factory=dict)
    copies: bool = False
    problem: str = ""


class Council:
    """The ranks of a pipeline, as they agree. Called by all of them in the same order.

    Args:
        group: process group whose messages do not wait for a GPU; None: that of all ranks.
        inputs: names of the inputs of the model.
    """

    def __init__(self, group: dist.ProcessGroup | None, inputs: Sequence[str]) -> None:
        self._group = group
        self._inputs = inputs

    def vote(self, request: Request, *, ordinary: bool, timeout_s: float) -> tuple[Request, bool]:
        """Agrees on the next step.

        Args:
            request: of this rank.
            ordinary: it asks for nothing but the step that the plan describes.
            timeout_s: how long other ranks are waited for.

        Returns:
            What all ranks know together, and whether the step is an ordinary one.

        Raises:
            InputError: a rank cannot run it, or the ranks were given things that do not go together.
            ExecutionError: a rank does not answer.
        """
        flags = [not ordinary, request.given is True, request.given is False, request.copies]
        digests = [request.digests.get(name) for name in self._inputs]
        largest = [0 if d is None else 1 + d for d in digests]
        smallest = [0 if d is None else _ABOVE - d for d in digests]
        votes = torch.tensor([*flags, *largest, *smallest], dtype=torch.int64)
        work = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        wait_for_all(work, "the agreement on a step", timeout_s, _CPU)
        found = votes.tolist()
        special, given, drawn, copies = (bool(v) for v in found[: len(flags)])
        both = zip(self._inputs, found[len(flags) : len(flags) + len(digests)], found[-len(digests) :], strict=False)
        odd = [name for name, high, low in both if high and high - 1 != _ABOVE - low]
        if not special and not (given and drawn):
            _refuse_other_values(odd)
            return dataclasses.replace(request, copies=copies), True
        told: list[Request] = [request] * dist.get_world_size()
        dist.all_gather_object(told, request, group=self._group)
        if request.problem:
            raise InputError(request.problem)
        together = merged(told)
        _refuse_other_values(odd)
        return together, False

    def close(self) -> None:
        """Takes leave of the group, if it is one of its own."""
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def check(self, problem: str, kind: type[InputError] = InputError) -> None:
        """Raises an error of a kind on every rank if one has a problem (empty: it has none)."""
        told = [problem] * dist.get_world_size()
        dist.all_gather_object(told, problem, group=self._group)
        found = problem or next(filter(None, told), "")
        if found:
            raise kind(found)


def _refuse_other_values(inputs: Sequence[str]) -> None:
    if inputs:
        raise InputError(
            f"input {inputs[0]!r} has other values on one rank than on another: every rank must be given the same "
            "batch (seed a data loader that shuffles equally on every rank), or only what its stages read"
        )


def merged(told: Sequence[Request]) -> Request:
    """What the ranks know together.

    Raises:
        InputError: they do not agree.
    """
    for rank, one in enumerate(told):
        if one.problem:
            raise InputError(f"rank {rank} cannot run this step: {one.problem}")
    if len({one.mode for one in told}) > 1:
        raise InputError("some ranks train and others evaluate: call train() or eval() on every rank")
    if {one.given for one in told} >= {True, False}:
        raise InputError("some ranks were given a batch and others none: give one on every rank, or on none")
    lengths = {len(one.shapes) for one in told if one.given}
    if len(lengths) > 1:
        raise InputError(f"the ranks were given {sorted(lengths)} micro-batches: give the same number on every rank")
    return Request(
        mode=told[0].mode,
        given=next((one.given for one in told if one.given is not None), None),
        shapes=_merged_shapes([one.shapes for one in told if one.given]),
        samples=_one_of("numbers of samples", [one.samples for one in told]),
        weights=_one_of("weights", [one.weights for one in told]),
        count=_one_of("counts", [one.count for one in told]),
        trained=_merged_flags([one.trained for one in told]),
        copies=any(one.copies for one in told),
    )


def _merged_shapes(parts: Sequence[tuple[Shapes, ...]]) -> tuple[Shapes, ...]:
    out: list[dict[str, tuple[int, ...]]] = [{} for _ in (parts[0] if parts else ())]
    for part in parts:
        for m, shapes in enumerate(part):
            for name, shape in shapes.items():
                if out[m].setdefault(name, shape) != shape:
                    raise InputError(
                        f"input {name!r} of micro-batch {m} has shape {list(shape)} on one rank and "
                        f"{list(out[m][name])} on another: every rank must be given the same batch"
                    )
    return tuple(out)


def _one_of(what: str, values: Sequence[_T | None]) -> _T | None:
    known = [v for v in values if v is not None]
    if any(v != known[0] for v in known[1:]):
        raise InputError(f"the ranks were given different {what}: every rank must be given the same ones")
    return known[0] if known else None


def _merged_flags(parts: Sequence[Mapping[str, bool]]) -> Mapping[str, bool]:
    out: dict[str, bool] = {}
    for part in parts:
        for name, flag in part.items():
            if out.setdefault(name, flag) != flag:
                raise InputError(
                    f"parameter {name!r} has requires_grad {flag} on one rank and {not flag} on another: set it on "
                    "every rank that holds it"
                )
    return out
