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
_KERNEL = _OPTIONS | {"no_cpython_wrapper": True}
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
    """Compiles a function that only compiled code calls; arrays that it returns have to be in a tuple."""
    return _compiled(_KERNEL, function)


def entry(function: Callable[..., Any]) -> Any:
    """Compiles a function that Python calls; it returns numbers and writes into arrays that it is given."""
    return _compiled(_ENTRY, function)


_T = TypeVar("_T")
SMALLEST = 1 << 15
GROWTH = 4


class Arena(NamedTuple):
    """Buffers of integers, of short integers and of floats, and ``[3]`` how much of each is taken."""

    ints: NDArray[np.int64]
    words: NDArray[np.int32]
    reals: NDArray[np.float64]
    taken: NDArray[np.int64]


def new_arena(size: int = SMALLEST) -> Arena:
    """An arena of `size` numbers of each kind."""
    return Arena(
        np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int32), np.empty(size), np.zeros(3, dtype=np.int64)
    )


def with_arena(call: Callable[[Arena], _T], arena: Arena | None = None) -> tuple[_T, Arena]:
    """The result of a call with an arena that is large enough, and the arena."""
    arena = arena or new_arena()
    while True:
        arena.taken[:] = 0
        try:
            return call(arena), arena
        except MemoryError:
            arena = new_arena(GROWTH * len(arena.ints))


@kernel
def ints(arena, n):  # type: ignore[no-untyped-def]
    """(``[n]`` integers that may be anything,)."""
    first = arena.taken[0]
    if n < 0 or first + n > len(arena.ints):
        raise MemoryError
    arena.taken[0] = first + n
    return (arena.ints[first : first + n],)


@kernel
def words(arena, n):  # type: ignore[no-untyped-def]
    """(``[n]`` short integers that may be anything,)."""
    first = arena.taken[1]
    if n < 0 or first + n > len(arena.words):
        raise MemoryError
    arena.taken[1] = first + n
    return (arena.words[first : first + n],)


@kernel
def reals(arena, n):  # type: ignore[no-untyped-def]
    """(``[n]`` floats that may be anything,)."""
    first = arena.taken[2]
    if n < 0 or first + n > len(arena.reals):
        raise MemoryError
    arena.taken[2] = first + n
    return (arena.reals[first : first + n],)


@kernel
def filled_ints(arena, n, value):  # type: ignore[no-untyped-def]
    """(``[n]`` integers of one value,)."""
    out = ints(arena, n)[0]
    for i in range(n):
        out[i] = value
    return (out,)


@kernel
def filled_words(arena, n, value):  # type: ignore[no-untyped-def]
    """(``[n]`` short integers of one value,)."""
    out = words(arena, n)[0]
    for i in range(n):
        out[i] = value
    return (out,)


@kernel
def filled_reals(arena, n, value):  # type: ignore[no-untyped-def]
    """(``[n]`` floats of one value,)."""
    out = reals(arena, n)[0]
    for i in range(n):
        out[i] = value
    return (out,)


@kernel
def mark(arena):  # type: ignore[no-untyped-def]
    """What is taken now, for `release`."""
    return arena.taken[0], arena.taken[1], arena.taken[2]


@kernel
def release(arena, marked):  # type: ignore[no-untyped-def]
    """Gives back what was taken since `mark`."""
    arena.taken[0], arena.taken[1], arena.taken[2] = marked
