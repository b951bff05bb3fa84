"""Runs every benchmark and writes docs/benchmarks.md: what `make benchmarks` calls. About eight hours on two cores.

``--only NAME,...`` runs some sections (`page.SECTIONS`), ``--minutes N`` those that fit. At the end it says what was
left out, and why; what was not run keeps its rows and its commit.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from page import SECTIONS, Section
from tables import DOCUMENT, write_section

FOLDER = Path(__file__).parent


def lacks(section: Section) -> str:
    """What is missing to run a section; empty if nothing is."""
    if section.needs == "data" and not os.environ.get("DRLPP_DATA"):
        return "needs published profiles: set DRLPP_DATA to their folder"
    if section.needs == "models" and any(importlib.util.find_spec(m) is None for m in ("timm", "transformers")):
        return "needs the extra `models`"
    if section.needs == "gpu":
        import torch

        return "" if torch.cuda.is_available() else "needs a GPU"
    return ""


def run(section: Section) -> str:
    """Measures a section. Returns why it failed; empty if it did not."""
    first, *options = shlex.split(os.path.expandvars(section.command))
    if first != "drlpp":
        return _failure([sys.executable, str(FOLDER / first), *options])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.md"
        where = ["-o", str(Path(folder) / "rows.jsonl"), "--markdown", str(table)]
        if failure := _failure([sys.executable, "-m", "drlpp", *options, *where]):
            return failure
        marker = f"<!-- {section.name}:"
        text = table.read_text().split(marker + "begin -->")[1].split(marker + "end -->")[0]
    write_section(section.name, text)
    return ""


def _failure(command: list[str]) -> str:
    status = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    return f"failed with status {status}" if status else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of sections, separated by commas")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="skip what does not fit in this time")
    args = parser.parse_args()
    chosen, left = set(filter(None, args.only.split(","))), args.minutes
    out = []
    for section in SECTIONS:
        if chosen and section.name not in chosen:
            out.append(f"{section.name}: not asked for")
        elif reason := lacks(section):
            out.append(f"{section.name}: {reason}")
        elif section.minutes > left:
            out.append(f"{section.name}: takes {section.minutes} minutes, {left:.0f} are left")
        else:
            left -= section.minutes
            print(f"{section.name}: {section.command}", flush=True)
            if failure := run(section):
                out.append(f"{section.name}: {failure}")
    print(f"{DOCUMENT} written; left out: {len(out)} of {len(SECTIONS)}")
    for line in out:
        print(f"  {line}")


if __name__ == "__main__":
    main()
