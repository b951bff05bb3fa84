"""The job script, run by a real bash with stand-ins for srun and torchrun."""

from __future__ import annotations

import os
import re
import subprocess

from drlpp.export.slurm import slurm
from exported_models import cluster, plan_by_modules


def test_a_task_on_each_host_starts_its_ranks(language_model, tmp_path):
    text = slurm(plan_by_modules(language_model, ["layers.1", "layers.3"], [(3,), (0,), (2,)], on=cluster(2, 2)))
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M))
    assert options["nodelist"] == "h0,h1"
    assert (options["nodes"], options["ntasks-per-node"]) == ("2", "1")
    assert options["signal"] == "TERM@120"
    assert "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100 " in text  # torchrun would kill ranks after 30 s
    for name, body in (
        ("srun", 'shift 2\nfor SLURMD_NODENAME in h1 h0; do export SLURMD_NODENAME; "$@"; done'),
        ("torchrun", 'echo "$CUDA_VISIBLE_DEVICES: $@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(text)

    def submit(*words: str) -> str:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASTER_PORT": "1234"}
        command = ["bash", str(tmp_path / "job.sh"), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    first, second = submit("my plan.json", "--steps", "5").splitlines()
    assert first == (
        "0,1: --nnodes 2 --node-rank 1 --nproc-per-node 2 --master-addr h0 --master-port 1234 "
        "-m drlpp run my plan.json --checkpoint checkpoints --steps 5"
    )
    assert second.startswith("0: --nnodes 2 --node-rank 0 --nproc-per-node 1 ")
    assert "run plan.json --checkpoint checkpoints\n" in submit()
