"""Kubernetes: a PyTorchJob of Kubeflow's training operator with one pod for each host of a plan.

The master is pinned to the first host and workers to the others, one on each; a pod takes all GPUs of its host, and
finds its node rank by the name of its node. Source: kubeflow/training-operator v1 (pkg/apis/kubeflow.org/v1).
"""

from __future__ import annotations

from typing import Any

import yaml

from drlpp.export.starting import GRACE_S, Host, check_equal, has_gpus, hosts_of, start_here
from drlpp.plan import Plan

_NAME = "drlpp-run"
_FOLDER = "/training"
_HOSTNAME = "kubernetes.io/hostname"


def kubernetes(plan: Plan) -> str:
    """The manifest as YAML. Raises PlanError: workers differ in their number of devices, among others."""
    hosts = hosts_of(plan, "a PyTorchJob")
    check_equal(hosts[1:] or hosts, "the workers of a PyTorchJob are alike: it")
    gpus, script = has_gpus(plan), _script(hosts)
    specs = {"Master": _replicas(hosts[:1], script, gpus)}
    if len(hosts) > 1:
        specs["Worker"] = _replicas(hosts[1:], script, gpus)
    manifest = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": _NAME},
        "spec": {"runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 3}, "pytorchReplicaSpecs": specs},
    }
    header = (
        f"# {plan.graph.name} on {plan.cluster.name}: kubectl apply -f FILE\n"
        f"# Yours: the image, which has drlpp, and the claim, mounted on {_FOLDER}: it has plan.json and the model's "
        "files,\n# and gets the checkpoints. Nodes have the names of the hosts in the cluster file. Options of drlpp "
        "run go to `args`.\n"
    )
    return header + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and repeats what occurs twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _script(hosts: tuple[Host, ...]) -> str:
    return start_here(hosts, name="NODE_NAME", address='"$MASTER_ADDR"', port='"$MASTER_PORT"', plan="plan.json")


def _replicas(hosts: tuple[Host, ...], script: str, gpus: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "pytorch",  # the operator looks for this name
        "image": "drlpp:latest",
        "workingDir": _FOLDER,
        "command": ["bash", "-c", script, "start"],
        "args": [],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "volumeMounts": [{"name": "training", "mountPath": _FOLDER}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": hosts[0].num_devices}}
    pod = {
        "affinity": _one_on_each([host.name for host in hosts]),
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [container],
        "volumes": [
            {"name": "training", "persistentVolumeClaim": {"claimName": "training"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }
    template = {"metadata": {"labels": {"app": _NAME}}, "spec": pod}
    return {"replicas": len(hosts), "restartPolicy": "OnFailure", "template": template}


def _one_on_each(names: list[str]) -> dict[str, Any]:
    """Affinity: a node of these, on which no other pod of the job is."""
    on = {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": names}]}
    apart = {"labelSelector": {"matchLabels": {"app": _NAME}}, "topologyKey": _HOSTNAME}
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on]}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]},
    }
