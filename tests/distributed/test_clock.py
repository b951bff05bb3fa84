"""Clocks of ranks are compared."""

from __future__ import annotations

from drlpp.runtime.observe.clock_offset import clock_offset_s
from worker_pool import WorkerPool


def test_one_clock(pool: WorkerPool) -> None:
    assert pool.run(clock_offset_s) == [0.0] * 4


def test_measured_offset_is_small_on_one_machine(pool: WorkerPool) -> None:
    offsets = pool.run(clock_offset_s, False)
    assert offsets[0] == 0.0
    assert all(abs(offset) < 0.05 for offset in offsets)
