"""The lines that start a host, run by a real bash with a stand-in for torchrun."""

from __future__ import annotations

import dataclasses
import os
import subprocess

import pytest

from drlpp.cluster import load_cluster
from drlpp.errors import PlanError
from drlpp.export.starting import Host, check_equal, has_gpus, hosts_of, start_here
from exported_models import cluster, divided, plan_by_modules


def test_hosts_have_the_order_in_which_ranks_are_numbered(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.3"], [(3,), (0,), (2,)], on=cluster(2, 2))
    assert hosts_of(plan, "X") == (Host("h0", 1, "0", 2), Host("h1", 2, "0,1", 2))
    groups = divided(plan_by_modules(language_model, ["layers.3"], [(0,), (2,)], on=cluster(2, 4)), 2)
    assert hosts_of(groups, "X") == (Host("h0", 2, "0,1", 4), Host("h1", 2, "0,1", 4))


def test_cpus_are_not_made_visible(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)], on=load_cluster("local-2"))
    assert not has_gpus(plan)
    assert hosts_of(plan, "X") == (Host("localhost", 2, "", 2),)


def test_what_cannot_be_started_is_refused(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    host = dataclasses.replace(plan.cluster.hosts[0], name="big host")
    odd = dataclasses.replace(plan, cluster=dataclasses.replace(plan.cluster, hosts=(host,)))
    with pytest.raises(PlanError, match="X finds hosts by name, but 'big host' of cluster 'equal' is no name"):
        hosts_of(odd, "X")
    serving = dataclasses.replace(plan.training, optimizer="none")
    with pytest.raises(PlanError, match="drlpp run trains, but the plan is for serving"):
        hosts_of(dataclasses.replace(plan, training=serving), "X")
    with pytest.raises(PlanError, match="X gives all of them as many devices, but a has 2 and b 4: export to slurm"):
        check_equal((Host("a", 2, "0,1", 2), Host("b", 2, "0,1", 4)), "X")
    assert check_equal((Host("a", 1, "0", 4), Host("b", 2, "0,1", 4)), "X") == 4


def test_every_host_starts_its_ranks(tmp_path):
    launcher = tmp_path / "torchrun"
    launcher.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES: $@"\n')
    launcher.chmod(0o755)
    hosts = (Host("a", 2, "0,3", 4), Host("b.c", 1, "", 4))
    script = start_here(hosts, name="ME", address="a", port="29500", plan="plan.json")

    def run(name: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ME": name}
        words = ["bash", "-c", script, "start", "--steps", "5"]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    rest = "--master-addr a --master-port 29500 -m drlpp run plan.json --checkpoint checkpoints --steps 5\n"
    assert run("a").stdout == f"0,3: --nnodes 2 --node-rank 0 --nproc-per-node 2 {rest}"
    assert run("b.c").stdout == f": --nnodes 2 --node-rank 1 --nproc-per-node 1 {rest}"
    lost = run("bxc")
    assert (lost.returncode, lost.stderr) == (1, "the plan has no host bxc\n")
