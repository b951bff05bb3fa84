"""The integer program that chooses how every op is divided, and its objective.

Option 0 of an op is to stay whole, the others are its splits. With ``x[n, o]`` = op n takes option o:

- A tensor that comes out as p and is wanted as q by some reader is moved once, in the forward pass. Gradients that
  arrive as g from some reader are summed and moved once, in the backward pass, to where the tensor came out. ``y >= x``
  says that a placement is wanted, ``z <= x`` that it is given, and ``sum z = y`` pays one move per wanted placement.
- All readers of a parameter agree how it is held; parameters are never moved. One that is whole under splits has
  partial sums as its gradient, which are summed once per step.
- What is kept for the backward pass is held in each form in which some op keeps it.

Only x is integer: the others follow from it. Classes of ops that are alike have one variable, and what they do counts
as often as they occur.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from drlpp.cost.sharding.members import PARTIAL, Placement

Held = Placement
"""How a parameter is held: cut, whole (None), or whole with a partial sum as its gradient (`PARTIAL`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor and the classes of ops that make and read it.

    Attributes:
        bytes: its size.
        learns: a gradient flows back.
        maker: class that makes it.
        gives: per option of the maker, how it comes out.
        readers: class, and per option how it is wanted.
    """

    bytes: float
    learns: bool
    maker: int
    gives: tuple[Placement, ...]
    readers: tuple[tuple[int, tuple[Placement, ...]], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ParamUse:
    """A parameter: its bytes, and per reader the class and how it holds it by option."""

    bytes: float
    readers: tuple[tuple[int, tuple[Held, ...]], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SavedUse:
    """A tensor kept for the backward pass: its bytes, and per keeper the class and, by option, whether a part is."""

    bytes: float
    keepers: tuple[tuple[int, tuple[bool, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """How a graph may be divided, and the prices.

    Attributes:
        seconds: per class, ``[options]`` seconds of all ops of the class.
        tensors, params, saved: what is used, and how often.
        move_s: seconds of a move: source, target, bytes.
        param_sum_s: seconds per micro-batch that sum a gradient of these bytes over the members.
        param_byte_s, saved_byte_s: seconds that a byte which a member holds is worth.
        degree: members of the group.
    """

    seconds: Sequence[Sequence[float]]
    tensors: Mapping[TensorUse, int]
    params: Mapping[ParamUse, int]
    saved: Mapping[SavedUse, int]
    move_s: Callable[[Placement, Placement, float], float]
    param_sum_s: Callable[[float], float]
    param_byte_s: float
    saved_byte_s: float
    degree: int

    def held_s(self, num_bytes: float, held: Held) -> float:
        """Price of a parameter that is held so."""
        own = num_bytes if held is None or held == PARTIAL else num_bytes / self.degree
        return own * self.param_byte_s + (self.param_sum_s(num_bytes) if held == PARTIAL else 0.0)

    def kept_s(self, num_bytes: float, is_part: bool) -> float:
        """Price of a tensor that is kept."""
        return self.saved_byte_s * (num_bytes / self.degree if is_part else num_bytes)

    def objective(self, choice: Sequence[int]) -> float:
        """The price of a choice of options, one per class; infinite if readers of a parameter do not agree."""
        total = sum(table[o] for table, o in zip(self.seconds, choice, strict=True))
        for use, count in self.tensors.items():
            total += count * sum(self.move_s(*move, use.bytes) for _, move, _ in moves(use, choice))
        for param, count in self.params.items():
            forms = {held[choice[k]] for k, held in param.readers}
            total += count * (self.held_s(param.bytes, forms.pop()) if len(forms) == 1 else math.inf)
        for saved, count in self.saved.items():
            total += count * sum(
                self.kept_s(saved.bytes, is_part) for is_part in {part[choice[k]] for k, part in saved.keepers}
            )
        return total


def gradient_of(wanted: Placement, option: int) -> Placement:
    """How the gradient of an operand comes: of one that is whole for a split op, as a partial sum."""
    return PARTIAL if wanted is None and option else wanted


def home(given: Placement) -> Placement:
    """Where the gradient of a tensor that comes out so is wanted."""
    return None if given == PARTIAL else given


def moves(use: TensorUse, choice: Sequence[int]) -> list[tuple[bool, tuple[Placement, Placement], int]]:
    """The moves of a tensor: forward or not, source and target, and the class that asks for it first."""
    given = use.gives[choice[use.maker]]
    found: dict[tuple[bool, tuple[Placement, Placement]], int] = {}
    for k, wants in use.readers:
        wanted = wants[choice[k]]
        found.setdefault((True, (given, wanted)), k)
        if use.learns:
            found.setdefault((False, (gradient_of(wanted, choice[k]), home(given))), k)
    return [(forward, move, k) for (forward, move), k in found.items() if move[0] != move[1]]


def solve(program: Program) -> list[int] | None:
    """The best option of every class; None if the solver finds none."""
    rows = _Rows(program)
    for k, table in enumerate(program.seconds):
        rows.options(k, table)
    for tensor, count in program.tensors.items():
        rows.tensor(tensor, count)
    for param, count in program.params.items():
        rows.param(param, count)
    for saved, count in program.saved.items():
        rows.kept(saved, count)
    return rows.solve()


class _Rows:
    """Collects variables and rows of the program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._cost: list[float] = []
        self._integer: list[int] = []
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._option: list[list[int]] = []

    def _variable(self, cost: float, integer: bool = False) -> int:
        self._cost.append(cost)
        self._integer.append(int(integer))
        return len(self._cost) - 1

    def _row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        self._entries += [(len(self._low), i, value) for i, value in terms]
        self._low.append(low)
        self._high.append(high)

    def options(self, k: int, seconds: Sequence[float]) -> None:
        """One option per class."""
        self._option.append([self._variable(s, integer=True) for s in seconds])
        self._row([(i, 1.0) for i in self._option[k]], 1.0, 1.0)

    def _wanted(self, price: float, groups: Sequence[Sequence[int]]) -> int:
        """A variable that is 1 where some reader takes one of its options in `groups`."""
        y = self._variable(price)
        for options in groups:
            self._row([(y, 1.0), *((i, -1.0) for i in options)], 0.0, math.inf)
        return y

    def _by_form(self, k: int, forms: Sequence[Hashable]) -> dict[Hashable, list[int]]:
        out: dict[Hashable, list[int]] = {}
        for i, form in zip(self._option[k], forms, strict=True):
            out.setdefault(form, []).append(i)
        return out

    def tensor(self, use: TensorUse, count: int) -> None:
        """Moves of a tensor, forward and back."""
        given = self._by_form(use.maker, use.gives)
        wants = [self._by_form(k, forms) for k, forms in use.readers]
        self._moves(use, count, given, wants, forward=True)
        if use.learns:
            back = [[gradient_of(q, o) for o, q in enumerate(forms)] for _, forms in use.readers]
            arrive = [self._by_form(k, forms) for (k, _), forms in zip(use.readers, back, strict=True)]
            homes: dict[Hashable, list[int]] = {}
            for p, options in given.items():
                homes.setdefault(home(p), []).extend(options)  # type: ignore[arg-type]
            self._moves(use, count, homes, arrive, forward=False)

    def _moves(
        self,
        use: TensorUse,
        count: int,
        given: Mapping[Hashable, list[int]],
        wants: Sequence[Mapping[Hashable, list[int]]],
        *,
        forward: bool,
    ) -> None:
        for q in dict.fromkeys(q for forms in wants for q in forms):
            prices = {}
            for p in given:
                source, target = (p, q) if forward else (q, p)
                prices[p] = count * self._program.move_s(source, target, use.bytes)  # type: ignore[arg-type]
            if not any(prices.values()):
                continue
            y = self._wanted(0.0, [forms[q] for forms in wants if q in forms])
            terms = [(y, -1.0)]
            for p, price in prices.items():
                z = self._variable(price)
                terms.append((z, 1.0))
                self._row([(z, 1.0), *((i, -1.0) for i in given[p])], -math.inf, 0.0)
            self._row(terms, 0.0, 0.0)

    def param(self, use: ParamUse, count: int) -> None:
        """All readers hold a parameter alike."""
        readers = [self._by_form(k, forms) for k, forms in use.readers]
        first = readers[0]
        for other in readers[1:]:
            for form in dict.fromkeys([*first, *other]):
                terms = [(i, 1.0) for i in first.get(form, ())]
                self._row([*terms, *((i, -1.0) for i in other.get(form, ()))], 0.0, 0.0)
        for form, options in first.items():
            for i in options:
                self._cost[i] += count * self._program.held_s(use.bytes, form)  # type: ignore[arg-type]

    def kept(self, use: SavedUse, count: int) -> None:
        """What is kept counts once per form."""
        keepers = [self._by_form(k, forms) for k, forms in use.keepers]
        for is_part in (False, True):
            price = count * self._program.kept_s(use.bytes, is_part)
            groups = [forms[is_part] for forms in keepers if is_part in forms]
            if groups and price:
                self._wanted(price, groups)

    def solve(self) -> list[int] | None:
        """The option of every class."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # a second to import, and most plans need no group
        from scipy.sparse import coo_array

        row, column, value = zip(*self._entries, strict=True)
        matrix = coo_array((value, (row, column)), shape=(len(self._low), len(self._cost))).tocsr()
        scale = max(self._cost) or 1.0
        answer = milp(
            np.array(self._cost) / scale,
            constraints=LinearConstraint(matrix, self._low, self._high),
            integrality=np.array(self._integer),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 1e-6},
        )
        if answer.x is None:
            return None
        return [int(np.argmax([answer.x[i] for i in options])) for options in self._option]
