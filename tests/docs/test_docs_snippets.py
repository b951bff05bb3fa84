"""Runs the Python blocks of the README and the documentation, page by page, as a reader would type them.

The blocks of a page share their names. Blocks with a title are files of the reader; `test_docs_commands` starts those.
Budgets are cut, and the model is a small one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drlpp.cli.main import run_command_line

ROOT = Path(__file__).parents[2]
TITLED = re.compile(r"^```\w* title=\"([^\"]+)\"\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {
    "exports.md": "parts of programs of other engines: tests/export runs these engines",
}
PRELUDES = {
    "runtime.md": """
import sys
sys.path.insert(0, "examples")
from two_tower import build as make
module, example_inputs, *loss_fn = make()
loss_fn = loss_fn[0] if loss_fn else None
make_model = lambda: make()[0]
batch_of = lambda step: None
""",
    "simulator.md": """
from drlpp import PlanningProblem, load_cluster, read_graph
from drlpp.plan import Assignment
import numpy as np
problem = PlanningProblem.build(read_graph("graph.json"), load_cluster("local-2"))
halves = np.arange(problem.graph.num_ops) * 2 // problem.graph.num_ops
assignments = [Assignment(halves, ((0,), (1,))), Assignment(halves, ((1,), (0,)))]
""",
}
"""What the reader has at hand on a page: a model and its inputs; a problem and assignments."""
SMALLER = [
    (r"\b1000\b", "2"),
    (r"timm:inception_v3(\?batch_size=\d+)?", "timm:resnet18?batch_size=2"),
    (r"budget(_s)?=[\d.]+", r"budget\1=0.3"),
    (r'find_suite\("paper"\)', 'find_suite("suite.yaml")'),
]
SUITE = "name: small\ncases:\n  - {name: chain, model: 'generated:dag?ops=12', cluster: local-2}\n"


def blocks(page):
    """The untitled Python blocks of a page, made smaller; those of a training loop apart."""
    found = []
    for text in BLOCK.findall(page.read_text()):
        for pattern, instead in SMALLER:
            text = re.sub(pattern, instead, text)
        found.append(text)
    return found


def is_program(text):
    """A program that torchrun starts."""
    return "init_process_group" in text


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("snippets")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copy(ROOT / "examples" / "two_tower.py", folder / "model.py")
    shutil.copy(ROOT / "examples" / "two_tower.graph.json", folder / "graph.json")
    (folder / "suite.yaml").write_text(SUITE)
    for page in PAGES:
        for title, text in TITLED.findall(page.read_text()):
            (folder / title).write_text(text)
    shutil.copy(folder / "graph.json", folder / "two_tower.json")
    make_plan(folder)
    return folder


def make_plan(folder):
    """A plan for two processes of this machine, as the reader has made it before."""
    options = ["-c", "local-2", "--planner", "uniform", "--budget", "0.1", "-o", str(folder / "plan.json")]
    assert run_command_line(["plan", str(folder / "two_tower.json"), *options]) == 0


def start(command, folder):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in NOT_RUN and blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_python_of_a_page(page, reader, monkeypatch):
    monkeypatch.chdir(reader)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"__name__": "snippet"}
    exec(PRELUDES.get(page.name, ""), names)
    for text in blocks(page):
        if is_program(text):
            run_program(PRELUDES.get(page.name, "") + text, reader)
        else:
            exec(compile(text, str(page), "exec"), names)


def run_program(text, folder):
    make_plan(folder)
    (folder / "train.py").write_text(text)
    start(["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"], folder)


def test_pages_that_are_left_out_are_there():
    assert all(any(p.name == name and blocks(p) for p in PAGES) for name in NOT_RUN)
