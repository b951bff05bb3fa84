"""The script, executed with a stand-in for what it takes from Ray, and for the process that it starts."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import ClassVar

import pytest

from drlpp.export.ray_train import ray_train
from exported_models import cluster, plan_by_modules


class Settings(types.SimpleNamespace):
    """`ScalingConfig`, `RunConfig` and `FailureConfig` keep what they are given."""


class TorchTrainer:
    """Calls the loop of one worker, as `ray.train.torch.TorchTrainer` does on each."""

    made: ClassVar[list[TorchTrainer]] = []

    def __init__(self, train_loop_per_worker, *, train_loop_config, scaling_config, run_config):
        self.loop, self.config = train_loop_per_worker, train_loop_config
        self.scaling, self.run = scaling_config, run_config
        self.made.append(self)

    def fit(self):
        self.loop(self.config)


@pytest.fixture
def names(language_model, monkeypatch):
    plan = plan_by_modules(language_model, ["layers.1", "layers.3"], [(3,), (0,), (2,)], on=cluster(2, 2))
    settings = types.SimpleNamespace(ScalingConfig=Settings, RunConfig=Settings, FailureConfig=Settings)
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.train", settings)
    monkeypatch.setitem(sys.modules, "ray.train.torch", types.SimpleNamespace(TorchTrainer=TorchTrainer))
    found: dict = {"__name__": "job"}
    exec(compile(ray_train(plan), "job.py", "exec"), found)
    return found


def test_a_worker_on_each_host_starts_its_ranks(names, monkeypatch, tmp_path):
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setattr("socket.gethostname", lambda: "h1")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append((command, options)))
    names["main"]("my.json", "--steps", "5")
    ((command, options),) = started
    assert " ".join(command[1:]) == (
        "-m torch.distributed.run --nnodes 2 --node-rank 1 --nproc-per-node 2 --master-addr h0 --master-port 29500 "
        "-m drlpp run my.json --checkpoint checkpoints --steps 5"
    )
    assert options["env"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "RANK" not in options["env"]
    assert (options["cwd"], options["check"]) == (str(tmp_path), True)
    scaling = TorchTrainer.made[-1].scaling
    assert (scaling.num_workers, scaling.resources_per_worker, scaling.use_gpu) == (2, {"GPU": 2}, True)


def test_a_host_that_is_not_in_the_plan_is_named(names, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    with pytest.raises(RuntimeError, match="the plan has no host other"):
        names["start_node"]({})
