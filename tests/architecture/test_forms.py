"""A problem is flattened once: whoever prices or searches takes the tables of `OpGraph`, not its edges.

Files that read names and kinds of ops, or edges as a file lists them, are named here with the reason.
"""

from __future__ import annotations

import re
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "drlpp"
ROOMS = ("cost", "schedules", "sim", "planners", "agent")
ON_THEIR_OWN = {
    "cost/op_times.py": "amounts and measured times of each op",
    "cost/calibration/calibrated.py": "times of each op, which it replaces",
    "cost/sharding/choice.py": "names in the splits of ops",
    "cost/sharding/uses.py": "names in the splits of ops",
    "cost/sharding/classes.py": "kinds, names and splits, by which blocks are equal",
    "cost/sharding/members.py": "sizes by name, as splits name them",
    "planners/engines/cut_points.py": "names of modules, at which engines cut",
    "planners/engines/given_split.py": "names of modules, which people count as layers",
    "planners/pipedream/planner.py": "PipeDream's own rules by kinds of ops and edges of its files",
    "planners/variant_estimates.py": "splits of ops, and what they give",
    "planners/baselines/expert.py": "names of ops in the split that a file carries",
    "agent/view/features.py": "kinds of ops",
}
_READS = re.compile(r"\bgraph\.(edges|ops)\b(?!\[)")


def readers() -> set[str]:
    files = (path for room in ROOMS for path in (SRC / room).rglob("*.py"))
    return {str(p.relative_to(SRC)) for p in files if _READS.search(p.read_text())}


def test_no_other_file_walks_over_the_graph():
    assert readers() == ON_THEIR_OWN.keys()
