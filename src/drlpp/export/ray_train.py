"""Ray Train: a script whose workers, one on each host of a plan, start torchrun there.

A worker takes all devices of its host, and finds its node rank by the host's name, since Ray numbers workers by
itself. Source: ray/train/torch (`TorchTrainer`), ray/air/config.py (`ScalingConfig`).
"""

from __future__ import annotations

from pprint import pformat

from drlpp.export.starting import CHECKPOINTS, check_equal, has_gpus, hosts_of
from drlpp.plan import Plan


def ray_train(plan: Plan) -> str:
    """The script. Raises PlanError: hosts differ in their number of devices, among others."""
    hosts = hosts_of(plan, "Ray Train")
    devices, gpus = check_equal(hosts, "Ray Train has workers that are alike: it"), has_gpus(plan)
    table = {host.name: (k, host.processes, host.visible) for k, host in enumerate(hosts)}
    return f'''# {plan.graph.name} on {plan.cluster.name}: python FILE [PLAN [OPTION OF drlpp run]...]
# On a Ray cluster of hosts with the names of the cluster file, which share the folder of the plan.
import os
import socket
import subprocess
import sys
from pathlib import Path

HOSTS = {pformat(table, sort_dicts=False)}  # name: (node rank, processes, CUDA_VISIBLE_DEVICES)
FIRST_HOST = {hosts[0].name!r}
PORT = "29500"


def start_node(config):
    """Runs on every host, once."""
    name = socket.gethostname()
    if name not in HOSTS:
        raise RuntimeError(f"the plan has no host {{name}}")
    node, processes, visible = HOSTS[name]
    environment = dict(os.environ)
    for taken in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(taken, None)  # torchrun has its own
    if visible:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(HOSTS)), "--node-rank", str(node)]
    command += ["--nproc-per-node", str(processes), "--master-addr", FIRST_HOST, "--master-port", PORT]
    command += ["-m", "drlpp", "run", config["plan"], "--checkpoint", "{CHECKPOINTS}", *config["options"]]
    subprocess.run(command, env=environment, cwd=config["folder"], check=True)


def main(plan="plan.json", *options):
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        start_node,
        train_loop_config={{"plan": plan, "options": list(options), "folder": str(Path.cwd())}},
        scaling_config=ScalingConfig(
            num_workers=len(HOSTS),
            use_gpu={gpus},
            resources_per_worker={{"{"GPU" if gpus else "CPU"}": {devices}}},
            placement_strategy="STRICT_SPREAD",
        ),
        run_config=RunConfig(name="drlpp-run", failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
'''
