"""Moments on the CPU."""

import time

import torch

from drlpp.runtime.observe.stopwatch import Stopwatch


def test_a_cpu_has_the_clock_of_the_host():
    watch = Stopwatch(torch.device("cpu"))
    before = time.perf_counter()
    watch.begin(before)
    assert before <= watch.seconds(watch.now()) <= time.perf_counter()
