"""What the runtime does on GPUs: the same results as on one, with messages and sums over NCCL. One GPU is enough."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from executor_cases import CASES, run_case
from plan_cases import captured_model, random_plan, train_job
from small_models import ALL
from worker_pool import WorkerPool

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
NAMES = sorted(ALL)


@pytest.mark.parametrize("case", CASES)
def test_equals_one_process(nccl_pool: WorkerPool, case: str) -> None:
    verification = run_case(nccl_pool, case).verification
    assert verification is not None
    assert verification.passed, verification.describe()


@pytest.mark.parametrize("case", ["skip with fan-out", "parallel branches", "dropout", "tied embedding, replicas"])
def test_mixed_precision(nccl_pool: WorkerPool, case: str) -> None:
    verification = run_case(nccl_pool, case, one_queue_per_pair=True, precision="bf16").verification
    assert verification is not None
    assert verification.passed, verification.describe()


@pytest.mark.parametrize("seed", range(2 * len(NAMES)))
def test_random_plans(nccl_pool: WorkerPool, seed: int) -> None:
    name = NAMES[seed % len(NAMES)]
    plan = random_plan(captured_model(name).graph, seed)
    verification = nccl_pool.run(train_job, name, plan, 2, True)[0].verification
    assert verification.passed, verification.describe()


def test_the_trace_tells_when_gpus_computed(nccl_pool: WorkerPool) -> None:
    trace = run_case(nccl_pool, "parallel branches").trace
    for device in range(4):
        mine = sorted(
            (e for e in trace.events if e.device == device and e.stream == "compute"), key=lambda e: e.start_s
        )
        assert all(e.start_s < e.end_s for e in mine)
        assert all(a.end_s <= b.start_s + 1e-6 for a, b in itertools.pairwise(mine))
    made = {(e.kind, e.stage, e.microbatch): e for e in trace.events}
    for sent in (e for e in trace.events if e.kind == "send"):
        ends = [e.end_s for k in "FB" if (e := made.get((k, sent.stage, sent.microbatch))) is not None]
        assert min(ends) <= sent.start_s + 1e-4 <= sent.end_s + 1e-4
    assert max(peak for rank in trace.memory for _, peak in rank) > 0


def test_command_line(tmp_path: Path) -> None:
    """Profile on the GPU, plan for it, and train there; as a user does it."""
    model = Path(__file__).parents[2] / "examples" / "two_tower.py"
    cluster = tmp_path / "gpu.yaml"
    cluster.write_text(
        "schema_version: 1\nname: gpu\nhosts:\n  - {name: a, devices: [h100-sxm5-80gb],"
        " network: {bandwidth: 10GB/s, latency: 30us}}\n"
    )
    drlpp(["profile", f"{model}:build", "--device", "cuda", "-o", "graph.json"], tmp_path)
    drlpp(["plan", "graph.json", "--cluster", "gpu.yaml", "--budget", "2", "-o", "plan.json"], tmp_path)
    shown = drlpp(["run", "plan.json", "--steps", "4", "--verify", "--json"], tmp_path)
    report = json.loads(shown)
    assert report["verification"]["passed"]
    assert report["peak_memory_bytes"][0] > 0


def drlpp(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "drlpp", *arguments],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
