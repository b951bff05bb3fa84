"""A standard output that takes no more, or is not there, is one line on stderr."""

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


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_standard_output(command):
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "drlpp", *command], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "drlpp: error: cannot write to the standard output: Broken pipe: the answer is not complete\n"
    )


def test_no_standard_error():
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&- <&-', "sh", sys.executable, "-m", "drlpp", "planners"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    assert "uniform" in done.stdout
    silent = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "drlpp", "plan", "none:x", "-c", "y"])
    assert silent.returncode == 2


def test_an_interrupt_while_modules_are_loaded_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "drlpp", "planners"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "drlpp: error: interrupted\n")
