"""Makes docs/benchmarks.md of the results in docs/data: words and short tables; long tables stay in the data.

``python benchmarks/page.py`` writes the page anew without measuring anything.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from drlpp.files import write_atomically
from tables import DATA, DOCUMENT, markdown

LONGEST = 13
"""Rows of a table that the page still shows."""
BEGINNING = """# Benchmarks

`make benchmarks` writes this page and the rows under `docs/data`, one file for each section; nothing here is written by
hand. The machine was two shared CPU cores without a GPU. Each section stands at the one commit that it names: ratios
within a section are comparable, absolute speeds of different sections less so.
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        name: of the results, ``docs/data/NAME.json``.
        title: the question.
        command: what measures it: a script of this folder with options, or a verb of drlpp.
        minutes: on two cores.
        needs: beside the package: ``data`` (the folder DRLPP_DATA), ``models``, ``gpu``, or nothing.
    """

    name: str
    title: str
    command: str
    minutes: int
    needs: str = ""


_BENCH = "drlpp bench {} --budget 4 --cpu-time"
SECTIONS = (
    Section("drl-against-all", "The agent: `drl` against every planner", "drl_against_all.py", 90, "models"),
    Section("agent-gap", "The agent: the policy alone on what it never saw", "agent_gap.py", 45, "models"),
    Section("generalisation", "The agent: what changes against training", "generalisation.py", 25),
    Section("ablations", "The agent: what each part brings", "ablations.py", 45),
    Section("measured-reward", "The agent: learning from measured steps", "measured_reward.py", 5),
    Section(
        "unequal-shares", "Replicas on unequal devices: shares by speed", "unequal_shares.py --budget 3", 8, "models"
    ),
    Section("paper-claims", "The paper's claims", "paper_claims.py", 20, "models"),
    Section(
        "published-profiles", "Published profiles and the bound", "published_profiles.py $DRLPP_DATA", 30, "DRLPP_DATA"
    ),
    Section("bench-paper", "Suite: the models of the paper", _BENCH.format("paper"), 15, "models"),
    Section("bench-heterogeneous", "Suite: unequal clusters", _BENCH.format("heterogeneous"), 20, "models"),
    Section("bench-branchy", "Suite: branchy models", _BENCH.format("branchy"), 15, "models"),
    Section("bench-llm", "Suite: language and multimodal models", _BENCH.format("llm"), 20, "models"),
    Section("bench-large", "Suite: large models and clusters", _BENCH.format("large"), 15, "models"),
    Section("bench-planning-time", "Planning time", _BENCH.format("planning-time"), 10),
    Section("time-truth", "Time against emulated runs", "time_truth.py --plans 66 --seconds 1.0", 5),
    Section("real-time-truth", "Time against real runs", "real_time_truth.py", 3),
    Section("adaptation", "Plans that correct themselves", "adaptation.py", 25),
    Section("memory-truth", "Memory against real runs", "memory_truth.py", 6, "models"),
    Section(
        "third-party-truth",
        "Time and memory that others measured on GPUs",
        "third_party_truth.py --write $DRLPP_DATA/third-party",
        10,
        "data",
    ),
    Section("gpu-truth", "Time and memory on a GPU", "gpu_truth.py", 2, "gpu"),
    Section("simulator-speed", "Speed of the simulator", "simulator_speed.py", 5),
    Section(
        "roofline-calibration",
        "Analytic times of ops",
        "roofline_calibration.py $DRLPP_DATA/pipedream",
        1,
        "DRLPP_DATA",
    ),
    Section("capture-breadth", "Breadth of the capture", "capture_breadth.py --verify --write", 60, "models"),
    Section("megatron-sweep", "Llama 70B and 405B against a sweep of layouts", "megatron_sweep.py", 12, "models"),
    Section("large-capture", "Capture of large models", "large_capture.py", 2, "models"),
    Section("check-cost", "The check of a capture", "check_cost.py", 3),
    Section("runtime-overhead", "Overhead of the runtime", "runtime_overhead.py --steps 15", 1),
    Section("soak", "Ranks that die", "soak.py --minutes 2", 2),
)


def render() -> str:
    """The whole page."""
    parts, missing = [BEGINNING], []
    for section in SECTIONS:
        path = DATA / f"{section.name}.json"
        if not path.exists():
            missing.append(f"{section.title}: not measured (`{section.command}`)")
            continue
        results = json.loads(path.read_text())
        if len(results["commits"]) == 1:
            parts.append(_section(section, results))
        else:
            commits = ", ".join(results["commits"]) or "no commit"
            missing.append(f"{section.title}: [rows](data/{section.name}.json) of {commits}, and not of one commit")
    if missing:
        parts.append("## Left out\n\n" + "\n".join(f"- {line}." for line in missing) + "\n")
    return "\n".join(parts)


def _section(section: Section, results: dict[str, Any]) -> str:
    lines = [f"## {section.title}", "", f"Commit {results['commits'][0]}, `{section.command}`."]
    for block in results["blocks"]:
        lines.append("")
        if "text" in block:
            lines.append(block["text"])
        elif len(block["rows"]) <= LONGEST:
            lines.append(markdown(block["columns"], block["rows"]).replace("\\\\|", "\\|").rstrip())
        else:
            columns = ", ".join(block["columns"])
            lines.append(f"[{len(block['rows'])} rows](data/{section.name}.json): {columns}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomically(DOCUMENT, render())
