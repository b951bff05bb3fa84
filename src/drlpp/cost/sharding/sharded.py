"""A graph as one member of a group computes it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.sharding.members import Placement
from drlpp.graph import OpGraph


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """A collective inside a group, once per micro-batch.

    Attributes:
        tensor: what is moved; in the backward pass its gradient.
        phase: ``forward`` or ``backward``.
        source, target: how it lies before and after: the dimension that is cut, with its sections; None for whole;
            dimension -1 for a partial sum.
        op: the op that it is charged to: the maker, or in the backward pass the first reader.
        bytes: of the whole tensor.
        seconds: that it takes.
    """

    tensor: str
    phase: Literal["forward", "backward"]
    source: Placement
    target: Placement
    op: int
    bytes: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class ShardedGraph:
    """How a group of `degree` devices divides the ops of a graph.

    At the borders of a stage values are whole: the receiving group cuts them for free, and what a sender has in parts
    is made whole first. The prices are those of ops that are all in one stage: a border may add one collective.

    Attributes:
        degree: members of the group.
        sequence: activations between the divided ops may be cut too.
        choice: ``[N]`` index into `Op.splits`, -1 for whole.
        graph: what one member computes and holds. Parameters that are cut have their part of the bytes, and kept
            tensors the bytes of all forms in which some op keeps them. It has no splits.
        forward_s, input_grad_s: ``[N]`` seconds of collectives per micro-batch in the passes of each op.
        step_s: ``[N]`` seconds once per step that sum gradients of whole parameters under splits.
        moves: the collectives.
        partial_gradients: parameters that are whole on every member, each with a part of the sum that is the gradient.
    """

    degree: int
    sequence: bool
    choice: tuple[int, ...]
    graph: OpGraph
    forward_s: NDArray[np.float64]
    input_grad_s: NDArray[np.float64]
    step_s: NDArray[np.float64]
    moves: tuple[Move, ...]
    partial_gradients: tuple[str, ...]
