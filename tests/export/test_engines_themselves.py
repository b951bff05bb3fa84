"""Exports read by the engines' own code. Each test needs its engine installed (`make test-engines` does that)."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
import yaml

from drlpp.export.deepspeed import deepspeed
from drlpp.export.inference import vllm
from drlpp.export.kubernetes import kubernetes
from drlpp.export.megatron import megatron
from drlpp.export.torchtitan import torchtitan
from exported_models import divided, plan_by_modules

pytestmark = pytest.mark.engines


def megatron_arguments(text: str) -> dict[str, str]:
    words = shlex.split(re.search(r"MEGATRON_ARGS=\((.*)\)", text, re.S).group(1))
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.filterwarnings("ignore")
def test_megatron_reads_the_layout(layered_plan, language_model):
    reader = pytest.importorskip(
        "megatron.core.transformer.pipeline_parallel_layer_layout", reason="the engine is not installed: megatron-core"
    )
    looped = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)])
    for plan in (layered_plan, looped):
        found = megatron_arguments(megatron(plan))
        ranks = int(found["--pipeline-model-parallel-size"])
        layout = reader.PipelineParallelLayerLayout(found["--pipeline-model-parallel-layout"], ranks)
        layout.validate_layer_layout(int(found["--num-layers"]), None)


@pytest.mark.filterwarnings("ignore")
def test_megatron_numbers_ranks_as_the_file_says(language_model):
    state = pytest.importorskip("megatron.core.parallel_state", reason="the engine is not installed: megatron-core")
    text = megatron(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]))
    devices = [int(d) for d in re.search(r"copy: (.*)", text).group(1).split(", ")]
    generator = state.RankGenerator(tp=1, ep=1, dp=2, pp=2, cp=1, order="tp-cp-ep-dp-pp")
    assert [{devices[rank] for rank in group} for group in generator.get_ranks("dp")] == [{0, 2}, {1, 3}]
    assert [[devices[rank] for rank in group] for group in generator.get_ranks("pp")] == [[0, 1], [2, 3]]


@pytest.mark.filterwarnings("ignore")
def test_megatron_numbers_groups_as_the_file_says(language_model):
    state = pytest.importorskip("megatron.core.parallel_state", reason="the engine is not installed: megatron-core")
    text = megatron(divided(plan_by_modules(language_model, ["layers.3"], [(0, 2), (1, 3)]), 2))
    devices = [int(d) for d in re.search(r"tensor-parallel rank: (.*)", text).group(1).split(", ")]
    generator = state.RankGenerator(tp=2, ep=1, dp=2, pp=2, cp=1, order="tp-cp-ep-dp-pp")
    groups = {kind: [[devices[r] for r in group] for group in generator.get_ranks(kind)] for kind in ("tp", "pp")}
    assert groups["tp"] == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert groups["pp"] == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.filterwarnings("ignore")
def test_torchtitan_reads_the_tables(layered_plan):
    config = pytest.importorskip("torchtitan.config", reason="the engine is not installed: torchtitan")
    tables = tomllib.loads(torchtitan(layered_plan))
    parallelism = config.ParallelismConfig(**tables["parallelism"])
    assert len(parallelism.module_fqns_per_model_part) == 3
    assert config.TrainingConfig(**tables["training"]).global_batch_size == 32


@pytest.mark.filterwarnings("ignore")
def test_deepspeed_reads_hostfile_and_topology(language_model):
    topology = pytest.importorskip("deepspeed.runtime.pipe.topology", reason="the engine is not installed: deepspeed")
    from deepspeed.launcher.runner import _parse_hostfile, parse_inclusion_exclusion

    names: dict[str, object] = {}
    plan = plan_by_modules(language_model, ["layers.3"], [(2, 3), (1, 0)])
    exec(compile(deepspeed(plan), "planned.py", "exec"), names)
    hosts = _parse_hostfile(names["HOSTFILE"].splitlines())
    assert dict(parse_inclusion_exclusion(hosts, names["INCLUDE"], "")) == {"h": [0, 1, 2, 3]}
    planned = names["PlannedTopology"]()
    assert isinstance(planned, topology.ProcessTopology)
    assert planned.get_axis_comm_lists("pipe") == [[2, 1], [3, 0]]
    assert planned.get_axis_comm_lists("data") == [[2, 3], [1, 0]]


def test_vllm_reads_the_partition(layered_plan, monkeypatch):
    utils = pytest.importorskip("vllm.distributed.utils", reason="the engine is not installed: vllm")
    counts = re.search(r"VLLM_PP_LAYER_PARTITION=(\S+)", vllm(layered_plan)).group(1)
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", counts)
    assert [utils.get_pp_indices(6, rank, 3) for rank in range(3)] == [(0, 1), (1, 3), (3, 6)]


def test_kubernetes_knows_every_key_of_the_manifest(layered_plan):
    """Pods by the schema of Kubernetes, the job by the classes of its operator."""
    schema = pytest.importorskip("kubernetes_validate", reason="the engine is not installed: kubernetes-validate")
    jobs = pytest.importorskip("kubeflow.training.models", reason="the engine is not installed: kubeflow-training")
    manifest = yaml.safe_load(kubernetes(layered_plan))
    for name, replicas in manifest["spec"]["pytorchReplicaSpecs"].items():
        template = replicas["template"]
        metadata = {**template["metadata"], "name": name.lower()}
        schema.validate({**template, "apiVersion": "v1", "kind": "Pod", "metadata": metadata}, "1.31", strict=True)
    _check_keys(jobs, "KubeflowOrgV1PyTorchJob", manifest)


def _check_keys(classes, kind, value):
    """The operator's classes, and those that their fields name, know every key; pods are no class of the operator."""
    if kind.startswith("dict("):
        for one in value.values():
            _check_keys(classes, kind.removesuffix(")").partition(", ")[2], one)
    elif (found := getattr(classes, kind, None)) is not None:
        fields = {key: field for field, key in found.attribute_map.items()}
        assert set(value) <= set(fields), kind
        for key, one in value.items():
            _check_keys(classes, found.openapi_types[fields[key]], one)
