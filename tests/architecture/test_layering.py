"""The direction of imports: a module may import only from its own package and from lower levels."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "drlpp"

LEVEL = {
    "__init__": 12,
    "__main__": 12,
    "_version": 0,
    "errors": 0,
    "parsing": 0,
    "native": 0,
    "_native": 0,
    "units": 0,
    "files": 0,
    "json_text": 0,
    "seeds": 0,
    "signals": 0,
    "generator_spec": 0,
    "model_spec": 0,
    "threads": 0,
    "freed_memory": 0,
    "torch_private": 0,
    "training": 0,
    "graph": 1,
    "cluster": 1,
    "plan": 2,
    "problem": 3,
    "cost": 4,
    "schedules": 5,
    "capture": 4,
    "sim": 6,
    "runtime": 6,
    "planners": 7,
    "agent": 8,
    "solving": 9,
    "adaptation": 10,
    "report": 9,
    "export": 9,
    "whatif": 10,
    "bench": 10,
    "cli": 11,
}
SAME_LEVEL_ALLOWED = {
    ("units", "errors"),
    ("native", "errors"),
    ("native", "_native"),
    ("files", "errors"),
    ("torch_private", "errors"),
    ("parsing", "errors"),
    ("graph", "cluster"),
    ("training", "errors"),
    ("generator_spec", "errors"),
    ("model_spec", "errors"),
    ("model_spec", "files"),
}
FORBIDDEN = {("runtime", "sim"), ("report", "agent"), ("export", "agent")}
TORCH_ALLOWED = {"capture", "runtime", "agent", "threads", "torch_private"}


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.append((node.lineno, node.module or ""))
            found += [(node.lineno, f"{node.module}.{a.name}") for a in node.names if node.module == "drlpp"]
    return found


FILES = sorted(SRC.rglob("*.py"))


def test_every_room_has_a_level():
    assert {room(p) for p in FILES} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_downward(path: Path):
    own = room(path)
    for line, module in imports(path):
        parts = module.split(".")
        if parts[0] != "drlpp" or len(parts) < 2 or parts[1] == own or parts[1].startswith("__"):
            continue
        other = parts[1]
        lower = LEVEL[other] < LEVEL[own] or (own, other) in SAME_LEVEL_ALLOWED
        assert lower, f"{path}:{line}: {own} (level {LEVEL[own]}) imports {other} (level {LEVEL[other]})"
        assert (own, other) not in FORBIDDEN, f"{path}:{line}: {own} must not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_torch_stays_where_it_belongs(path: Path):
    if room(path) in TORCH_ALLOWED:
        return
    for line, module in imports(path):
        assert module.split(".")[0] not in ("torch", "torch_geometric"), f"{path}:{line} imports {module}"


PRIVATE = re.compile(
    r"^(from|import) torch\S*\._|^from torch\S* import .*\b_[a-z]|(?<!`)\btorch(\.\w+)*\._[a-zA-Z]"
    r"|torch\.fx\.experimental"
)
CHECKED = re.compile(r"\._(BatchNorm|checkpoint_hook|engine_run_backward|validate_args|destroy)\b")
"""Names that are used where they are; `drlpp.torch_private` asks whether they are there."""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_private_names_of_torch_are_in_one_place(path: Path):
    if room(path) == "torch_private":
        return
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        private = PRIVATE.search(line.strip()) and not CHECKED.search(line) and "torch.ops.aten._" not in line
        assert not private, f"{path}:{number}: take it from drlpp.torch_private"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_file_size(path: Path):
    assert len(path.read_text().splitlines()) <= 700
