"""One member's part of a stage whose ops a group of ranks divides: moves between placements, and local calls.

Which ops are divided, and how, is given; what has to be moved follows. Values that other stages read are whole.
Parameters are held as their readers want them, where all want the same; else whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.errors import PlanError
from drlpp.runtime.stage.local_ops import bias_of, exchanging, local_arguments
from drlpp.runtime.stage.moves import Divided, Members, Move, Parted, Placement
from drlpp.runtime.stage.randomness import RandomContext

_MODULES = "drlpp_group"
Wanted = tuple[fx.Node, Placement, bool, bool]
"""A value, its placement, whether its reader is divided, and whether gradients are recorded there."""


@dataclasses.dataclass(frozen=True)
class Ways:
    """How the nodes of a captured graph are divided.

    Attributes:
        reads: name of a divided node -> operand -> cut; operands that are left out are whole.
        gives: name of a divided node -> placement of its result.
    """

    reads: Mapping[str, Mapping[fx.Node, Cut]]
    gives: Mapping[str, Placement]


@dataclasses.dataclass(frozen=True)
class GroupDivision:
    """How a group runs its stages.

    Attributes:
        members: of the group, as this rank sees them.
        ways: of the nodes.
        held: parameter -> cut, of those that a member has a part of.
        partial: parameters that are whole on every member, and whose gradients are summed over the group.
    """

    members: Members
    ways: Ways
    held: Mapping[str, Cut]
    partial: Collection[str]


class DividedCalls:
    """Writes the calls of one member into the graph of a stage.

    Args:
        division: see there.
        graph: of the stage.
        root: its module.
        copies: node of the captured graph -> its copy, filled by the caller.
        context: of the random ops of this rank.
    """

    def __init__(
        self,
        division: GroupDivision,
        graph: fx.Graph,
        root: nn.Module,
        copies: Mapping[fx.Node, fx.Node],
        context: RandomContext,
    ) -> None:
        self._division = division
        self._context = context
        self._graph = graph
        self._copies = copies
        self._modules = nn.ModuleDict()
        root.add_module(_MODULES, self._modules)
        self._moved: dict[Wanted, fx.Node] = {}

    def add(self, node: fx.Node, *, records: bool) -> fx.Node | None:
        """Writes a divided call; None if the node is not divided. Args: `records`: gradients are recorded."""
        reads = self._division.ways.reads.get(node.name)
        if reads is None:
            return None
        members, gives = self._division.members, self._division.ways.gives[node.name]
        bias = bias_of(node) if gives == PARTIAL else None

        def operand(source: fx.Node) -> fx.Node:
            found = self.operand(source, reads.get(source), divided=True, records=records)
            return self._graph.call_function(torch.mul, (found, 0.0)) if source is bias and members.place else found

        given = local_arguments(node, gives, members.count)
        args, kwargs = (node.args, node.kwargs) if given is None else ((), given)
        args, kwargs = fx.node.map_arg((args, kwargs), operand)
        own = exchanging(node, gives, members, self._context)
        if own is not None:
            return self._call(own, *args, **kwargs)
        _check_shape(node, reads, gives, given, members.count)
        return self._graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]

    def operand(self, source: fx.Node, wanted: Placement, *, divided: bool, records: bool) -> fx.Node:
        """The copy of a value in the placement that a reader wants."""
        key = source, wanted, divided or wanted is not None, records
        if key not in self._moved:
            move = self._move(source, wanted, divided=divided)
            self._moved[key] = self._copies[source] if move is None else self._call(move, self._copies[source])
        return self._moved[key]

    def _move(self, source: fx.Node, wanted: Placement, *, divided: bool) -> nn.Module | None:
        members = self._division.members
        if source.op == "get_attr":
            name = str(source.target)
            held = self._division.held.get(name)
            if held is not None:
                return None if wanted == held else Move(members, held, wanted, divided=divided)
            if wanted is not None:
                return Parted(members, wanted)
            return Divided(members) if not divided and name in self._division.partial else None
        received = self._copies[source].op == "placeholder"
        has = None if received else self._division.ways.gives.get(source.name)
        if has == wanted and (wanted is not None or not divided or not _has_gradient(source)):
            return None
        if not isinstance(source.meta.get("val"), torch.Tensor):
            raise PlanError(
                f"op {source.name!r} gives several tensors, and {wanted} of them is wanted where they are {has}: "
                "they can be divided only as their op is"
            )
        return Move(members, has, wanted, divided=divided)

    def _call(self, module: nn.Module, *args: Any, **kwargs: Any) -> fx.Node:
        name = f"call_{len(self._modules)}"
        self._modules[name] = module
        return self._graph.call_module(f"{_MODULES}.{name}", args, kwargs)


def local_shape(shape: Sequence[int], placement: Placement, count: int) -> tuple[int, ...]:
    """Shape of a tensor on one of `count` members."""
    if placement is None or placement == PARTIAL:
        return tuple(shape)
    return tuple(n // count if dim == placement.dim else n for dim, n in enumerate(shape))


def fits(shape: Sequence[int], placement: Placement, count: int) -> bool:
    """Whether a tensor has equal parts for `count` members."""
    if placement is None or placement == PARTIAL:
        return True
    lengths = placement.sections or (shape[placement.dim],)
    return shape[placement.dim] % sum(lengths) == 0 and all(n % count == 0 for n in lengths)


def _has_gradient(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex()


def _check_shape(
    node: fx.Node, reads: Mapping[fx.Node, Cut], gives: Placement, given: Mapping[str, Any] | None, count: int
) -> None:
    """Runs a call on tensors without values. Raises PlanError where a member would get another shape than its part."""
    whole = node.meta.get("val")
    if not isinstance(whole, torch.Tensor) or any(
        not isinstance(x.meta.get("val"), torch.Tensor) for x in node.all_input_nodes
    ):
        return
    expected = local_shape(whole.shape, gives, count)
    with torch.no_grad():

        def local(source: fx.Node) -> torch.Tensor:
            value = source.meta["val"]
            dtype = torch.float32 if value.is_floating_point() else value.dtype
            return torch.empty(local_shape(value.shape, reads.get(source), count), dtype=dtype, device="meta")

        args, kwargs = fx.node.map_arg((node.args, node.kwargs) if given is None else ((), given), local)
        try:
            found = tuple(node.target(*args, **kwargs).shape)  # type: ignore[operator]
        except NotImplementedError:
            return
        except RuntimeError as error:
            found = f"an error ({' '.join(str(error).split())[:80]})"  # type: ignore[assignment]
    if found != expected:
        raise PlanError(
            f"op {node.name!r} cannot be divided among {count} devices as planned: its part gives {found}, not "
            f"{list(expected)}; plan without tensor parallelism (--parallelism pp,dp,zero1)"
        )
