from __future__ import annotations

import gc

import pytest
import torch

from drlpp.capture import capture_module
from drlpp.capture.collector import collector_paused


def test_the_collector_is_off_within_and_on_again_after_it_and_after_an_error() -> None:
    enabled = []

    @collector_paused()
    def failing() -> None:
        enabled.append(gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert enabled == [False]
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_capture_does_not_run_the_collector() -> None:
    runs: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)

    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(50)))
    gc.collect()
    gc.callbacks.append(note)
    try:
        capture_module(model, torch.ones(2, 4), torch.sum)
        during = len(runs)
    finally:
        gc.callbacks.remove(note)
    assert during <= 2  # the collection that may follow when it is on again
