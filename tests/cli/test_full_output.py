"""A standard output that takes no more is one line on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [["planners"], ["planners", "--json"], ["versions"], ["--help"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk(command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "drlpp", *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "drlpp: error: cannot write to the standard output: No space left on device: the answer is not complete\n"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_is_gone(command):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "drlpp", *command], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == (
        "drlpp: error: cannot write to the standard output: Broken pipe: the answer is not complete\n"
    )
