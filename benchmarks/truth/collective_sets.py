"""Collectives of NCCL inside one host, against the formulas with the bandwidth that each kind of link reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost import all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s
from truth.rows import Findings, Pair, number, read_rows, whole

LINKS = {
    "a100_sxm": Link(bandwidth=215e9, latency_s=4e-6),
    "A100": Link(bandwidth=215e9, latency_s=4e-6),
    "h100_sxm": Link(bandwidth=320e9, latency_s=4e-6),
    "h200_sxm": Link(bandwidth=320e9, latency_s=4e-6),
    "b200_sxm": Link(bandwidth=500e9, latency_s=4e-6),
    "gb200": Link(bandwidth=500e9, latency_s=4e-6),
    "rtx_pro_6000_server": Link(bandwidth=25e9, latency_s=4e-6),
    "P100": Link(bandwidth=6e9, latency_s=1e-5),
    "1080Ti": Link(bandwidth=11e9, latency_s=1e-5),
}
"""By the names of the tables; the first two and the H100's are those of the presets."""
_FORMULAS: dict[str, Callable[[Cluster, Sequence[int], float], float]] = {
    "all_reduce": all_reduce_s,
    "all_gather": all_gather_s,
    "reduce_scatter": reduce_scatter_s,
    "alltoall": all_to_all_s,
}


def _cluster(gpu: str, number_of: int) -> Cluster:
    kind = DeviceType(name="d", memory_bytes=1)
    return Cluster(gpu, (kind,), (Host(name="h", devices=("d",) * number_of, link=LINKS[gpu]),))


def _add(name: str, gpu: str, op: str, gpus: int, moved: float, seconds: float, ref: str, findings: Findings) -> None:
    if gpu not in LINKS or op not in _FORMULAS:
        findings.leave_out(f"{name} collectives", f"link of {gpu}" if gpu not in LINKS else f"collective {op}")
    elif moved > 0:
        predicted = _FORMULAS[op](_cluster(gpu, gpus), range(gpus), moved)
        size = "from 1 MB" if moved >= 1e6 else "below 1 MB"
        findings.add(Pair(f"{name} collectives, {gpu}, {size}", "time", predicted, seconds, ref=ref))


def run(data: Path, findings: Findings) -> None:
    """Adds a pair per measured collective."""
    for line, r in read_rows(data / "aiconfigurator" / "nccl.csv"):
        seconds, ref = number(r, "ms") / 1e3, f"aiconfigurator/nccl.csv:{line}"
        _add("aiconfigurator", r["gpu"], r["op"], whole(r, "num_gpus"), number(r, "bytes"), seconds, ref, findings)
    for line, r in read_rows(data / "vtrain" / "allreduce_one_node.csv"):
        seconds, ref = number(r, "time_ns") / 1e9, f"vtrain/allreduce_one_node.csv:{line}"
        _add("vtrain", r["gpu"], "all_reduce", whole(r, "num_gpus"), number(r, "bytes"), seconds, ref, findings)
    for line, r in read_rows(data / "deepbench" / "allreduce.csv"):
        seconds, ref = number(r, "ms") / 1e3, f"deepbench/allreduce.csv:{line}"
        _add("deepbench", r["gpu"], "all_reduce", whole(r, "gpus"), number(r, "bytes"), seconds, ref, findings)
