"""Accounting for tensor storages."""

from __future__ import annotations

import torch

from drlpp.runtime.observe.tensor_memory import StorageTracker


def test_follows_storages_until_they_are_freed() -> None:
    tracker = StorageTracker()
    kept = torch.zeros(100)
    tracker.add([kept, kept.view(10, 10)])
    assert tracker.live_bytes == 400
    tracker.start()
    made = kept + 1
    view = made[:50]
    del made
    assert tracker.live_bytes == 800
    tracker.sample()
    del view
    temporary = (kept * 2).sum()
    assert tracker.live_bytes == 404
    tracker.stop()
    unseen = torch.zeros(1000)
    assert (tracker.live_bytes, tracker.peak_bytes) == (404, 800)
    del temporary, unseen
    assert tracker.live_bytes == 400


def test_sees_the_backward_pass() -> None:
    tracker = StorageTracker()
    w = torch.ones(256, requires_grad=True)
    tracker.start()
    loss = (w * w).sum()
    held = tracker.live_bytes
    loss.backward()
    tracker.stop()
    assert held == 4
    assert w.grad is not None
    assert tracker.live_bytes >= held + w.grad.nbytes
