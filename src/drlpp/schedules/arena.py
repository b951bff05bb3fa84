"""Memory of the compiled code: three buffers that kernels take parts of, and the two ways in which they are compiled.

A kernel that allocates nothing needs no counting of references to arrays, which takes longer to compile than the
kernel itself and slows it down. So whoever calls compiled code from Python brings an `Arena`, and kernels take their
arrays from it, one after the other. What was taken since ``mark(arena)`` is given back by ``release``.

An arena that is too small raises MemoryError, and `with_arena` calls again with a larger one. The part that was taken
is not cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
_KERNEL = _OPTIONS | {"no_cpython_wrapper": True, "forceinline": True}
_ENTRY = _OPTIONS | {"nogil": True}
_SOURCES = tuple(
    (path.name, path.stat().st_mtime_ns, path.stat().st_size)
    for folder in ("plan", "schedules", "sim")
    for path in sorted((Path(__file__).parents[1] / folder).glob("*.py"))
)


def _compiled(options: dict[str, Any], function: Callable[..., Any]) -> Any:
    """Compiles a function, in a cache that ends with a change of any file: numba itself looks at the function's own."""
    compiled = numba.njit(**options)(function)
    cache_file = compiled._cache._cache_file
    cache_file._source_stamp = (cache_file._source_stamp, _SOURCES)
    return compiled


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles a function that only compiled code calls; arrays that it returns have to be in a tuple.

    Its code becomes part of that of its callers: an array is handed over as seven numbers, so that a call with a
    `PlacedStages` would take about as long as the simulation of five actions.
    """
    return _compiled(_KERNEL, function)


def entry(function: Callable[..., Any]) -> Any:
    """Compiles a function that Python calls; it returns numbers and writes into arrays that it is given."""
    return _compiled(_ENTRY, function)


_T = TypeVar("_T")
SMALLEST = 1 << 15
GROWTH = 4


class Buffer(NamedTuple):
    """Numbers of one kind, and ``[1]`` how many of them are taken."""

    numbers: NDArray[Any]
    taken: NDArray[np.int64]


class Arena(NamedTuple):
    """Buffers of integers (64 bits), of short integers (32 bits) and of floats."""

    ints: Buffer
    words: Buffer
    reals: Buffer


def new_arena(size: int = SMALLEST) -> Arena:
    """An arena of `size` numbers of each kind."""
    return Arena(*(Buffer(np.empty(size, dtype=kind), np.zeros(1, dtype=np.int64)) for kind in ("i8", "i4", "f8")))


def with_arena(call: Callable[[Arena], _T], arena: Arena | None = None) -> tuple[_T, Arena]:
    """The result of a call with an arena that is large enough, and the arena."""
    arena = arena or new_arena()
    while True:
        for buffer in arena:
            buffer.taken[0] = 0
        try:
            return call(arena), arena
        except MemoryError:
            arena = new_arena(GROWTH * len(arena.ints.numbers))


@kernel
def take(buffer, n):  # type: ignore[no-untyped-def]
    """(``[n]`` numbers of a buffer that may be anything,)."""
    first = buffer.taken[0]
    if n < 0 or first + n > len(buffer.numbers):
        raise MemoryError
    buffer.taken[0] = first + n
    return (buffer.numbers[first : first + n],)


@kernel
def filled(buffer, n, value):  # type: ignore[no-untyped-def]
    """(``[n]`` numbers of a buffer, all of one value,)."""
    out = take(buffer, n)[0]
    for i in range(n):
        out[i] = value
    return (out,)


@kernel
def mark(arena):  # type: ignore[no-untyped-def]
    """What is taken now, for `release`."""
    return arena.ints.taken[0], arena.words.taken[0], arena.reals.taken[0]


@kernel
def release(arena, marked):  # type: ignore[no-untyped-def]
    """Gives back what was taken since `mark`."""
    arena.ints.taken[0], arena.words.taken[0], arena.reals.taken[0] = marked
