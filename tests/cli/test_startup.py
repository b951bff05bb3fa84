"""The command line answers at once: seconds of processor time, and what it must not load."""

import os
import subprocess
import sys

import pytest

MISTAKES = {
    "no graph": ["plan", "missing.json", "-c", "local-2"],
    "no model file": ["plan", "missing.py:make", "-c", "local-2"],
    "no preset": ["plan", "timm:resnet50", "-c", "nowhere"],
    "bad YAML": ["plan", "timm:resnet50", "-c", "bad.yaml"],
    "no planner": ["compare", "timm:resnet50", "-c", "local-2", "--planners", "drl,nobody"],
    "no engine": ["plan", "timm:resnet50", "-c", "local-2", "--for", "nobody"],
    "no option": ["plan", "timm:resnet50", "-c", "local-2", "--budjet", "3"],
    "bad value": ["plan", "timm:resnet50", "-c", "local-2", "--objective", "speed"],
    "no plan": ["simulate", "missing.json"],
    "no plan to run": ["run", "missing.json"],
    "no suite": ["bench", "nothing"],
}
HEAVY = ("torch", "scipy.optimize", "timm", "transformers", "torch_geometric", "tensorboard")
PROGRAM = """
import sys
from drlpp.cli.main import run_command_line
status = run_command_line(sys.argv[1:])
sys.stderr.write("LOADED " + " ".join(m for m in sys.modules))
sys.exit(status)
"""


def run(arguments, cwd):
    """(status, stderr, seconds of processor time, modules that were loaded)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    text, loaded = process.stderr.read().split("LOADED ")
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, text, usage.ru_utime + usage.ru_stime, set(loaded.split())


def test_help(tmp_path):
    status, _, cpu_s, loaded = run(["--help"], tmp_path)
    assert status == 0
    assert not loaded & {*HEAVY, "numpy", "pydantic"}
    assert cpu_s < 1.5  # 0.25 on the machine where this was written


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: [")
    status, text, cpu_s, loaded = run(MISTAKES[mistake], tmp_path)
    assert status == 2
    assert text.startswith("drlpp: error: ")
    assert len(text.splitlines()) == 1
    assert not loaded & set(HEAVY)
    assert cpu_s < 4  # 0.3 to 0.9 there


@pytest.mark.slow
def test_a_rank_loads_only_what_it_needs():
    """A run starts one process per device; what captures and checkpoints need takes a second and a half in each."""
    code = "import sys, drlpp.runtime.launch.worker; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    late = {
        "sympy",
        "torch.distributed.tensor",
        "torch.distributed.checkpoint",
        "torch._dynamo",
        "timm",
        "transformers",
    }
    assert not late & set(out.split())
