from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from drlpp.freed_memory import keep_freed_memory

STEPS = """
import resource, torch
from drlpp.freed_memory import keep_freed_memory
if {keep}: assert keep_freed_memory()
torch.set_num_threads(1)
def step():
    blocks = [torch.ones(10 << 20) for _ in range(2)]
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_blocks_are_not_asked_for_again() -> None:
    """Ten steps of two blocks of 40 MB, which glibc by itself takes from the system each time, touch few new pages."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    faults = [
        int(subprocess.run([sys.executable, "-c", STEPS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    ]
    assert faults[1] < faults[0] / 5


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
