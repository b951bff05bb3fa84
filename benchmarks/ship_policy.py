"""Puts the weights of a finished ``drlpp train-policy`` run into the package:
``python benchmarks/ship_policy.py FOLDER``.

The weights go without the optimizer; beside them goes the record of the run with its validation curve.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from drlpp.agent.networks.weights_file import SHIPPED, load_checkpoint, save_checkpoint
from drlpp.agent.training.pretrain import BEST
from drlpp.files import write_atomically

WEIGHTS = Path(__file__).parents[1] / "src" / "drlpp" / "agent" / "weights"


def ship(folder: Path) -> None:
    """Copies weights and record of the run in a folder into the package."""
    policy, record, _ = load_checkpoint(folder / BEST)
    WEIGHTS.mkdir(exist_ok=True)
    save_checkpoint(WEIGHTS / SHIPPED, policy, record)
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    curve = [row for row in rows if "validation_best_reward" in row]
    write_atomically(WEIGHTS / "policy.json", json.dumps({**record, "curve": curve}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    ship(parser.parse_args().folder)
