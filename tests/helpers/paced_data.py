"""Batches that wait for what a test does: how far a run gets before something happens depends on no machine's speed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_TEXT = """
import pathlib, time, torch

WAITS, SLOW_UNTIL = {waits}, {slow_until!r}

def batches():
    folder, generator, done = pathlib.Path(__file__).parent, torch.Generator().manual_seed(3), 0
    while True:
        while done in WAITS and not (folder / WAITS[done]).exists():
            time.sleep(0.01)
        if SLOW_UNTIL and not (folder / SLOW_UNTIL).exists():
            time.sleep(0.1)
        yield {batch}
        done += 1
"""


def images(rows: int) -> str:
    """A batch of the model `branches`, as Python text."""
    return f"torch.randn({rows}, 2, 6, 6, generator=generator), torch.randint(5, ({rows},), generator=generator)"


def vectors(rows: int) -> str:
    """A batch of the model `chain`, as Python text."""
    return f"torch.randn({rows}, 6, generator=generator), torch.randn({rows}, 2, generator=generator)"


def tokens(rows: int) -> str:
    """A batch of the model `tied`, as Python text."""
    each = f"torch.randint(16, ({rows}, 5), generator=generator)"
    return f"{each}, {each}"


def paced_data(folder: Path, batch: str, waits: Mapping[int, str] | None = None, slow_until: str = "") -> str:
    """Writes a file of batches into `folder`; returns what `run(data=...)` takes.

    Args:
        batch: Python text of one.
        waits: after so many steps, the next batch comes when a file of this name is in the folder.
        slow_until: until a file of this name is there, every batch takes a tenth of a second.
    """
    (folder / "data.py").write_text(_TEXT.format(batch=batch, waits=dict(waits or {}), slow_until=slow_until))
    return f"{folder}/data.py:batches"
