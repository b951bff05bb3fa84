"""Random small modules with users' habits x random plans: equal to plain PyTorch, or refused; never silently different.

    python benchmarks/habit_fuzz.py [MODULES] [FIRST_SEED]

Prints a line per module that differs, the refusals by reason, and the counts. Exit status 1 if one differs.
"""

from __future__ import annotations

import collections
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from habit_fuzz import fuzz_job
from worker_pool import WorkerPool

RANKS = 3


def main(modules: int, first: int) -> int:
    """Runs the modules of so many seeds."""
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pool = WorkerPool(RANKS, Path(folder))
        for seed in range(first, first + modules):
            try:
                outcome = pool.run(fuzz_job, seed, RANKS)[0]
            except AssertionError as error:
                counts["crashed"] += 1
                lines = [line for line in str(error).splitlines() if line.strip()]
                sys.stdout.write(f"seed {seed} crashed: {lines[-1][:300]}\n")
                continue
            counts[outcome.status] += 1
            if outcome.status == "refused":
                reasons[re.sub(r"'[^']*'|\d+(\.\d+)?(e-?\d+)?", "*", outcome.detail)[:110]] += 1
            if outcome.status == "different":
                sys.stdout.write(f"seed {seed} {outcome.kinds}: {outcome.detail}\n")
            sys.stdout.flush()
        pool.close()
    for reason, count in reasons.most_common():
        sys.stdout.write(f"  {count:4} {reason}\n")
    sys.stdout.write(f"{dict(counts)} in {time.monotonic() - begin:.0f} s\n")
    return int(bool(counts["different"] or counts["crashed"]))


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    sys.exit(main(given[0] if given else 300, given[1] if len(given) > 1 else 0))
