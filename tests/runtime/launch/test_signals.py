"""Signals that ask something of a run."""

import signal

import torch

from drlpp.runtime.launch.signals import Wishes


def test_nothing_is_agreed_without_checkpoints():
    wishes = Wishes(checkpoints=False, device=torch.device("cpu"))
    wishes.take(signal.SIGTERM)
    assert wishes.agreed(1.0) is None
