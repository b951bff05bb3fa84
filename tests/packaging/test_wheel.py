"""The wheel works where there is no checkout: it is built, installed into a folder of its own, and plans a graph."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRAPH = ROOT / "examples" / "two_tower.graph.json"
IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "build", "out", ".*", "tests", "docs", "*.egg-info")


def run(*command, cwd, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into, built from a copy of the sources without what was compiled there."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("wheel")
    quick = folder / "c++"  # without the optimizer, which takes half of the time
    quick.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    quick.chmod(0o755)
    shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source"))
    run(*pip, *build, cwd=folder, CXX=str(quick))
    (wheel,) = folder.glob("drlpp-*.whl")
    run(*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel), cwd=folder)
    shutil.rmtree(folder / "source")
    return folder / "site"


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first compiles the extension
@pytest.mark.parametrize("planner", ["drl", "uniform"])
def test_it_plans_away_from_the_checkout(installed, tmp_path, planner):
    shutil.copy(GRAPH, tmp_path / "graph.json")
    command = (sys.executable, "-m", "drlpp", "plan", "graph.json", "-c", "local-2", "--planner", planner)
    answer = run(*command, "--budget", "1", "-o", "plan.json", "--json", cwd=tmp_path, PYTHONPATH=str(installed))
    assert json.loads(answer)["status"] == "ok"
    assert (tmp_path / "plan.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first compiles the extension
def test_what_is_imported_is_the_wheel(installed, tmp_path):
    code = "import drlpp, drlpp.native; print(drlpp.__file__); print(drlpp.native.library.__file__)"
    files = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert all(Path(file).is_relative_to(installed) for file in files)
