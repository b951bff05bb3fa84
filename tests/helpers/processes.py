"""Finds and signals the ranks that this process started."""

from __future__ import annotations

import os
import random
from pathlib import Path


def ranks() -> dict[int, int]:
    """Rank -> process id of the workers that this process started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"drlpp.runtime.launch" in command and parent == os.getpid():
                pairs = [v.split(b"=", 1) for v in (folder / "environ").read_bytes().split(b"\0") if b"=" in v]
                found[int(dict(pairs)[b"RANK"])] = int(folder.name)
        except (OSError, ValueError, KeyError):
            continue
    return found


def signal_rank(rank: int, number: int) -> None:
    """Sends a signal to a rank."""
    os.kill(ranks()[rank], number)


def signal_a_rank(rng: random.Random, number: int) -> bool:
    """Sends a signal to a random rank; False if none was there any more."""
    there = sorted(ranks().items())
    if not there:
        return False
    try:
        os.kill(rng.choice(there)[1], number)
    except ProcessLookupError:
        return False
    return True
