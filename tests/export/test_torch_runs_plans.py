"""The scripts of the documentation train under exported plans in torch's own runtime, as one process does."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.export.torch_pipelining import torch_schedule, torch_split
from exported_models import plan_by_modules

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"
NUM_MICROBATCHES = 4


@pytest.fixture
def scripts(tmp_path):
    """A folder with the Python files of the page."""
    for title, text in re.findall(r"^```python title=\"([^\"]+)\"\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        (tmp_path / title).write_text(text)
    return tmp_path


def losses_of_one_process(folder: Path) -> list[float]:
    spec = importlib.util.spec_from_file_location("chain_of_the_page", folder / "chain.py")
    chain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chain)
    torch.manual_seed(0)
    model, (example, _), loss_fn = chain.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = []
    for step in range(3):
        words, following = chain.sample(NUM_MICROBATCHES * len(example), seed=step)
        loss = loss_fn(model(words), following)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        out.append(loss.item())
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "devices", "schedule"),
    [
        (["blocks.1", "blocks.2", "head"], [(0,), (1,), (0,), (1,)], "interleaved-zero-bubble"),
        ([], [(0, 1)], "1f1b"),
    ],
    ids=["loops and split backward passes", "copies"],
)
def test_losses_are_those_of_one_process(scripts, begins, devices, schedule):
    graph = capture(load_model(f"{scripts / 'chain.py'}:build")).graph
    plan = plan_by_modules(graph, begins, devices, num_microbatches=NUM_MICROBATCHES, schedule=schedule)
    (scripts / "schedule.csv").write_text(torch_schedule(plan))
    (scripts / "split.json").write_text(torch_split(plan))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "engine.py"]
    result = subprocess.run(
        command,
        cwd=scripts,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = [float(line.split()[1]) for line in result.stdout.splitlines()]
    assert found == pytest.approx(losses_of_one_process(scripts), abs=2e-5)
