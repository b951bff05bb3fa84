"""Runs a part of the suite with the oldest and the newest releases, and writes the table of docs/install.md.

``make test-versions`` makes an environment of its own for each (a few GB, some minutes) and installs drlpp into it
beside the torch that is there; an environment that exists is used again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "install.md"
PARTS = ("capture", "runtime", "distributed", "architecture")
BEGIN, END = "<!-- written by make test-versions -->\n", "<!-- end -->"
HEAD = "| torch | Python | transformers | " + " | ".join(PARTS) + " | date |\n" + "|---" * (len(PARTS) + 4) + "|\n"
_FIND = (
    "import json, sys, torch, transformers; print(json.dumps([torch.__version__.partition('+')[0], "
    "'.'.join(map(str, sys.version_info[:3])), transformers.__version__]))"
)


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a run is made with: Python interpreters in order of preference, and requirements for pip."""

    name: str
    pythons: tuple[str, ...]
    requirements: tuple[str, ...]


ENVIRONMENTS = (
    Environment("oldest", ("python3.11",), ("torch==2.9.*", "torchvision==0.24.*", "transformers==4.57.*")),
    Environment(
        "newest",
        ("python3.14", "python3.13", "python3.12", "python3.11"),
        ("torch==2.15.*", "torchvision", "transformers"),
    ),
)


def made(environment: Environment, folder: Path) -> Path:
    """The interpreter of an environment with drlpp in it; torch is installed first, and has to stay as it is."""
    python = folder / environment.name / "bin" / "python"
    if not python.exists():
        interpreter = next((p for p in environment.pythons if shutil.which(p)), sys.executable)
        subprocess.run([interpreter, "-m", "venv", folder / environment.name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *environment.requirements, "timm"], check=True)
    before = found(python)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[dev]"], check=True, cwd=ROOT)
    if found(python) != before:
        raise SystemExit(f"the installation changed {before} to {found(python)}: mend the ranges in pyproject.toml")
    return python


def found(python: Path) -> list[str]:
    """The versions of torch, Python and transformers."""
    printed = subprocess.run([python, "-W", "ignore", "-c", _FIND], check=True, capture_output=True, text=True).stdout
    versions: list[str] = json.loads(printed)
    return versions


def run_part(python: Path, part: str, report: Path, more: list[str]) -> tuple[str, bool]:
    """One folder of tests: how many passed, failed and were skipped, and whether all is well."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([*command, f"--junitxml={report}", *more, f"tests/{part}"], cwd=ROOT, env=environment, check=False)
    if not report.exists():
        return "did not run", False
    return counted(ElementTree.parse(report).getroot())


def counted(report: ElementTree.Element) -> tuple[str, bool]:
    """What a report in JUnit's form says."""
    (suite,) = report.iter("testsuite")
    number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = number["failures"] + number["errors"]
    text = f"{number['tests'] - bad - number['skipped']} passed"
    text += f", {bad} failed" if bad else ""
    text += f", {number['skipped']} skipped" if number["skipped"] else ""
    return text, not bad and number["tests"] > 0


def with_row(page: str, versions: list[str], results: dict[str, str], date: str) -> str:
    """The page with a row for these versions, instead of the one that was there for them."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    key = f"| {' | '.join(versions)} |"
    rows = [r for r in page[start:end].splitlines() if re.match(r"\| \d", r) and not r.startswith(key)]
    rows.append(f"{key} {' | '.join(results.get(p, 'not run') for p in PARTS)} | {date} |")
    rows.sort(key=lambda row: [int(n) for n in re.findall(r"\d+", row)[:3]])
    return page[:start] + HEAD + "\n".join(rows) + "\n" + page[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "versions", help="of the environments")
    parser.add_argument("--only", choices=[e.name for e in ENVIRONMENTS], help="one of them")
    parser.add_argument("--parts", default=",".join(PARTS), help="folders of tests, separated by commas")
    options, more = parser.parse_known_args()
    good = True
    for environment in ENVIRONMENTS:
        if options.only not in (None, environment.name):
            continue
        python = made(environment, options.folder)
        results: dict[str, str] = {}
        for part in options.parts.split(","):
            report = options.folder / f"{environment.name}-{part}.xml"
            report.unlink(missing_ok=True)
            results[part], well = run_part(python, part, report, more)
            good &= well
            date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            PAGE.write_text(with_row(PAGE.read_text(), found(python), results, date))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
