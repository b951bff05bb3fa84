"""The truth benchmark on made-up rows in the layout of the published sets."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "third_party_truth.py"
TP1 = (
    "dataset,ref,gpu,gpus,gpus_per_node,model,layers,hidden,heads,kv_heads,ffn,seq,vocab,precision,micro_batch,"
    "global_batch,pp,virtual_stages,dp,zero,recompute,iter_s,mem_gb,oom,notes"
)
MEGATRON = (
    "test", "gpu", "platform", "nodes", "gpus_per_node", "iter_s_median", "max_mem_bytes", "num-layers", "hidden-size",
    "num-attention-heads", "num-query-groups", "ffn-hidden-size", "kv-channels", "seq-length", "vocab-size",
    "micro-batch-size", "global-batch-size", "tensor-model-parallel-size", "pipeline-model-parallel-size",
    "num-layers-per-virtual-pipeline-stage", "num-virtual-stages-per-pipeline-rank", "attention-backend",
    "decoder-first-pipeline-num-layers", "decoder-last-pipeline-num-layers", "use-distributed-optimizer",
    "recompute-granularity", "fp16", "sequence-parallel", "transformer-impl", "swiglu",
    "deterministic-mode", "untie-embeddings-and-output-weights",
)  # fmt: skip


def megatron_rows() -> str:
    """Rows of Megatron's tests, with the columns that are read."""
    usual = {
        "platform": "dgx_a100", "gpu": "A100-80", "nodes": 1, "gpus_per_node": 8, "iter_s_median": 0.15,
        "max_mem_bytes": 2.6e9, "num-layers": 12, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 1024,
        "micro-batch-size": 4, "global-batch-size": 32, "tensor-model-parallel-size": 1,
        "pipeline-model-parallel-size": 2,
    }  # fmt: skip
    uneven = {"decoder-first-pipeline-num-layers": 2, "decoder-last-pipeline-num-layers": 2}
    special = [
        {"test": "gpt/a", "attention-backend": "unfused", "num-layers-per-virtual-pipeline-stage": 2},
        {"test": "gpt/b", "gpu": "GB200", "gpus_per_node": 4, "recompute-granularity": "full"},
        {"test": "bert/c", "pipeline-model-parallel-size": 4, "fp16": "True", **uneven},
        {"test": "gpt/d", "tensor-model-parallel-size": 16},
        {"test": "gpt/i", "tensor-model-parallel-size": 2, "sequence-parallel": "True"},
        {"test": "gpt/x_mla"},
        {"test": "gpt/e", "num-layers": 11},
        {"test": "gpt/f", "global-batch-size": 20},
        {"test": "gpt/g", "micro-batch-size": ""},
        {"test": "t5/h", "hidden-size": 768},
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, MEGATRON)
    writer.writeheader()
    writer.writerows(usual | row for row in special)
    return file.getvalue()


TABLES = {
    "aiconfigurator/gemm_bf16.csv": "m,n,k,a100_sxm_ms\n4096,4096,4096,0.6\n",
    "neusight/elementwise_fp32.csv": "OPName,B,H,t4_ms,set\nadd,1024,4096,0.2,train\n",
    "deepbench/gemm.csv": "gpu,precision,m,n,k,trans_a,trans_b,ms\nM40,fp32,1760,16,1760,N,N,0.1\n",
    "zorse-cephalo/layer_times.csv": (
        "model,gpu,seq,dtype,batch,forward_ms,backward_ms,source\n"
        "deepspeedllama_7b,a100x40,512,float16,4,4.0,8.0,zorse\n"
        "deepspeedllama_7b,t4,512,float16,4,30.0,60.0,zorse\n"
        "no_such_model,t4,512,float16,4,30.0,60.0,zorse\n"
    ),
    "truth_tp1.csv": (
        f"{TP1}\n"
        "vtrain,r:1,A100-80GB SXM,4,8,GPT,4,1024,16,,4096,1024,50257,fp16,1,8,2,1,2,0,full,0.07,2.5,0,\n"
        "vtrain,r:2,A100-80GB SXM,4,8,GPT,4,1024,16,,4096,1024,50257,fp16,1,8,4,1,1,0,full,0.11,,,\n"
        "megatron-lm-ci,r:3,A100-80,8,8,GPT,8,512,8,,,1024,,bf16,4,32,2,2,4,0,,0.2,2.5,0,\n"
        "megatron-lm-ci,r:4,,,,GPT,8,512,8,,,1024,,bf16,4,32,2,2,4,0,,0.2,2.5,,\n"
    ),
    "megatron-lm-ci/runs.csv": megatron_rows(),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, text in TABLES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    file = folder / "out.json"
    command = [sys.executable, str(SCRIPT), str(folder), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


def test_every_expressible_row_is_predicted_within_a_factor(result):
    _, found = result
    times = [p for p in found["pairs"] if p["what"] == "time"]
    wanted = {"truth_tp1.csv:2", "aiconfigurator/gemm_bf16.csv:2", *(f"megatron-lm-ci/runs.csv:{n}" for n in (2, 3, 4))}
    assert {p["ref"] for p in times} >= wanted
    assert all(0.1 < p["predicted"] / p["measured"] < 5 for p in times)


def test_plans_of_one_job_are_ranked(result):
    _, found = result
    (score,) = [s for s in found["scores"] if (s["set"], s["what"]) == ("vtrain steps", "time")]
    assert (score["rows"], score["groups"], score["kendall"], score["regret"]) == (2, 1, 1.0, 0.0)
    assert score["mean_error"] >= 0


def test_memory_and_its_overflow_are_compared(result):
    _, found = result
    assert {s["what"] for s in found["scores"]} == {"time", "memory", "out of memory"}


def test_rows_that_cannot_be_expressed_are_named_with_the_reason(result):
    text, found = result
    reasons = {(x["set"], x["reason"]) for x in found["left_out"]}
    assert ("deepbench gemm", "GPU M40 is not in the database") in reasons
    assert ("zorse-cephalo layers", "the shape of no_such_model is not known") in reasons
    megatron = {reason for name, reason in reasons if name == "megatron-lm-ci steps"}
    assert megatron == {
        "tensor parallelism over hosts",
        "multi-latent attention",
        "layers do not divide by the stages, and their split is not stated",
        "micro-batches do not divide",
        "number of GPUs, shape or micro-batch not stated",
        "model t5",
    }
    assert "GPU M40 is not in the database" in text


def test_a_folder_that_is_not_there(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "none")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not a folder" in done.stderr


MUTILATED = {
    "aiconfigurator/gemm_bf16.csv": (
        "m,n,k,a100_sxm_ms,mi210_ms,x9_ms\n4096,4096,4096,0.6,0.9,0.1\nabc,1,1,0.6,,\n1,1,1,nan,,\n"
    ),
    "aiconfigurator/nccl.csv": "gpu,op,num_gpus,bytes\nh100_sxm,all_reduce,8,1048576\n",
    "harp/measured_runs.csv": "",
    "sailor/measured_plans.jsonl": '{"id": "a", "stag',
    "timm/train_amp_rtx3090.csv": (
        "model,img_size,batch_nchw,step_ms_nchw,batch_nhwc,step_ms_nhwc\nno_such,224,inf,1.0,,\n"
    ),
    "truth_tp1.csv": (
        f"{TP1}\n"
        "new,r:1,A100-80GB SXM,4,8,GPT,4,1024,16,,4096,1024,50257,fp16,1,8,2,1,2,0,full,nan,,,\n"
        "new,r:2,A100-80GB SXM,4,8,GPT,4,1024,0,,4096,1024,50257,fp16,1,8,2,1,2,0,full,0.1,,,\n"
        "new,r:3,L4,4,8,GPT,4,1024,16,,4096,1024,50257,fp16,1,8,2,1,2,0,full,0.1,,,\n"
        "new,r:4,A100-80GB SXM,4,8,GPT,1e30,1024,16,,4096,1024,50257,fp16,1,8,2,1,2,0,full,0.1,,,\n"
        "new,r:5,A100-80GB SXM\n"
    ),
    "of-tomorrow/runs.csv": "gpu,iter_s\nH100,1\nH100,2\n",
}


def test_tables_that_are_wrong_or_unknown_are_named_and_stop_nothing(tmp_path):
    for name, text in MUTILATED.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    file = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--json", str(file)]
    subprocess.run(command, capture_output=True, check=True)
    found = json.loads(file.read_text())
    assert [p["ref"] for p in found["pairs"]] == ["aiconfigurator/gemm_bf16.csv:2"] * 2
    assert {(x["set"], x["reason"], x["rows"]) for x in found["left_out"]} >= {
        ("aiconfigurator products", "m is 'abc', no number", 1),
        ("aiconfigurator products", "GPU x9 is not in the database", 1),
        ("aiconfigurator collectives, h100_sxm, from 1 MB", "the time measured is no positive number", 1),
        ("sailor placements", "no JSON with id and stages", 1),
        ("timm training", "batch_nchw is 'inf', not finite", 1),
        ("new steps", "neither time nor memory stated", 1),
        ("new steps", "links and network of hosts with l4-24gb are not known", 1),
        ("new steps", "layers is 1e+30, no count", 1),
        ("new steps", "number of GPUs, shape or micro-batch not stated", 1),
        ("of-tomorrow/runs.csv", "no reader for this table", 2),
    }
