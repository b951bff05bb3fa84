"""The manifest: its fields, as the operator documents them."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from drlpp.cluster import cluster_from_dict, load_cluster
from drlpp.errors import PlanError
from drlpp.export.kubernetes import kubernetes
from exported_models import cluster, plan_by_modules


def specs_of(text: str) -> dict[str, dict]:
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(manifest["spec"]) == {"runPolicy", "pytorchReplicaSpecs"}
    return manifest["spec"]["pytorchReplicaSpecs"]


def nodes_of(spec: dict) -> list[str]:
    affinity = spec["template"]["spec"]["affinity"]
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (apart,) = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    return term["matchExpressions"][0]["values"]


def test_the_master_is_on_the_first_host_and_workers_on_the_others(language_model):
    plan = plan_by_modules(language_model, ["layers.1", "layers.3"], [(0,), (2,), (4,)], on=cluster(3, 2))
    specs = specs_of(kubernetes(plan))
    assert [nodes_of(specs[kind]) for kind in ("Master", "Worker")] == [["h0"], ["h1", "h2"]]
    assert [specs[kind]["replicas"] for kind in ("Master", "Worker")] == [1, 2]
    for spec in specs.values():
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["terminationGracePeriodSeconds"] == 120
        assert container["name"] == "pytorch"
        assert container["resources"] == {"limits": {"nvidia.com/gpu": 2}}
        assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
        bash, option, script, name = container["command"]
        assert (bash, option, name) == ("bash", "-c", "start")
        assert "h2) node=2 processes=1 gpus=0 ;;\n" in script
        assert container["env"][0]["name"] == "NODE_NAME"
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_one_host_of_cpus_needs_no_workers(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)], on=load_cluster("local-2"))
    specs = specs_of(kubernetes(plan))
    assert list(specs) == ["Master"]
    assert "resources" not in specs["Master"]["template"]["spec"]["containers"][0]


def test_unequal_workers_are_refused(language_model):
    hosts = [{"name": f"h{k}", "devices": ["d"] * (k + 1), "link": {"bandwidth": 1e10}} for k in range(3)]
    hosts = [host | {"network": {"bandwidth": 1e9}} for host in hosts]
    types = {"d": {"speed": 1.0, "memory": "16GB"}}
    unequal = cluster_from_dict({"schema_version": 1, "name": "unequal", "device_types": types, "hosts": hosts})
    plan = plan_by_modules(language_model, ["layers.1", "layers.3"], [(0,), (1,), (3,)], on=unequal)
    with pytest.raises(PlanError, match="workers of a PyTorchJob are alike: .* h1 has 2 and h2 3: export to slurm"):
        kubernetes(plan)
    specs_of(kubernetes(plan_by_modules(language_model, ["layers.3"], [(0,), (1,)], on=unequal)))
