"""Predictions from the shipped database against what other people measured on their GPUs.

``python benchmarks/third_party_truth.py DATA [--json FILE] [--only SET,...]``

DATA is a folder of measurement sets. Every row that a problem and a plan of ours can express is predicted on the
project's own path (graph, problem, op times, evaluator); the others are counted with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from drlpp.files import write_atomically
from tables import machine, markdown, write_section
from truth import collective_sets, image_models, layers, ops, steps, unequal
from truth.report import HEADER, as_json, scores, table_rows
from truth.rows import Findings

SETS: Mapping[str, Callable[[Path, Findings], None]] = {
    "ops": ops.run,
    "collectives": collective_sets.run,
    "layers": layers.run,
    "steps": steps.run,
    "unequal": unequal.run,
    "timm": image_models.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, dest="json_file")
    parser.add_argument("--only", default=",".join(SETS), help=f"some of {', '.join(SETS)}")
    parser.add_argument("--write", action="store_true", help="make a section of docs/benchmarks.md of it")
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"{given.data} is not a folder: give the folder that holds the sets of measurements")
    findings = Findings()
    for name in given.only.split(","):
        if name not in SETS:
            sys.exit(f"--only {name}: use some of {', '.join(SETS)}")
        SETS[name](given.data, findings)
    left_out = [[s, r, str(n)] for (s, r), n in sorted(findings.left_out.items())]
    text = markdown(HEADER, table_rows(scores(findings.pairs)))
    text += "\nRows that are not predicted:\n\n" + markdown(["set", "reason", "rows"], left_out)
    print(text)
    if given.write:
        write_section("third-party-truth", f"Predicted from the shipped database, {machine()}.\n\n{text}")
    if given.json_file:
        write_atomically(given.json_file, json.dumps(as_json(findings)) + "\n")


if __name__ == "__main__":
    main()
