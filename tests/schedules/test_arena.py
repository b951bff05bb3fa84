"""The memory of compiled code."""

from __future__ import annotations

import numpy as np
import pytest

from drlpp.schedules.arena import Arena, entry, filled, mark, new_arena, release, with_arena


@entry
def sums(arena, n, out):
    """Takes arrays of all kinds, twice; the second time where the first ones were."""
    for i in range(2):
        before = mark(arena)
        a, b, c = filled(arena.ints, n, 1 + i)[0], filled(arena.words, n, 10)[0], filled(arena.reals, n, 0.5)[0]
        out[i] = a.sum() + b.sum() + c.sum()
        release(arena, before)


def test_the_cache_ends_with_a_change_of_any_file():
    stamp = sums._cache._cache_file._source_stamp
    assert {"arena.py", "replay.py", "action.py"} <= {name for name, _, _ in stamp[1]}


def test_arrays_are_filled_and_given_back():
    arena, out = new_arena(100), np.zeros(2)
    sums(arena, 100, out)
    assert out.tolist() == [1150.0, 1250.0]
    assert [buffer.taken.tolist() for buffer in arena] == [[0], [0], [0]]


def test_too_small_an_arena_is_an_error():
    with pytest.raises(MemoryError):
        sums(new_arena(10), 11, np.zeros(2))
    with pytest.raises(MemoryError):
        sums(new_arena(10), -1, np.zeros(2))


def test_with_arena_calls_again_with_a_larger_one():
    sizes, out = [], np.zeros(2)

    def call(arena: Arena) -> str:
        sizes.append(len(arena.ints.numbers))
        sums(arena, 1000, out)
        return "done"

    result, arena = with_arena(call, new_arena(100))
    assert result == "done"
    assert sizes == [100, 400, 1600] == [*sizes[:-1], len(arena.ints.numbers)]
    assert out[0] == 11500.0
