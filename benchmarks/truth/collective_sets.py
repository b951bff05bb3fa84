"""Collectives of NCCL inside one host, against the formulas with the bandwidth that each kind of link reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from drlpp.cluster import NCCL_STEP_S, Cluster, DeviceType, Host, Link
from drlpp.cost import all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s, transfer_s
from truth.rows import Findings, Pair, Row, UnreadableError, number, whole

LINKS = {
    gpu: Link(bandwidth=bandwidth, latency_s=latency_s, step_s=NCCL_STEP_S)
    for gpu, (bandwidth, latency_s) in {
        "a100_sxm": (200e9, 8e-6),
        "A100": (200e9, 8e-6),
        "a100_dgx": (200e9, 8e-6),
        "h100_sxm": (350e9, 5e-6),
        "h100_dgx": (350e9, 5e-6),
        "h200_sxm": (350e9, 5e-6),
        "b200_sxm": (600e9, 8e-6),
        "gb200": (600e9, 8e-6),
        "b300_sxm": (600e9, 8e-6),
        "gb300": (600e9, 8e-6),
        "V100": (120e9, 8e-6),
        "rtx_pro_6000_server": (25e9, 5e-6),
        "P100": (6e9, 1e-5),
        "1080Ti": (11e9, 1e-5),
    }.items()
}
"""By the names of the tables; A100 and H100 are those of the presets."""
_FORMULAS: dict[str, Callable[[Cluster, Sequence[int], float], float]] = {
    "all_reduce": all_reduce_s,
    "all_gather": all_gather_s,
    "reduce_scatter": reduce_scatter_s,
    "alltoall": all_to_all_s,
}


def _cluster(gpu: str, number_of: int, per_host: int = 0) -> Cluster:
    kind, count = DeviceType(name="d", memory_bytes=1), per_host or number_of
    hosts = tuple(
        Host(name=f"h{i}", devices=("d",) * count, link=LINKS[gpu], network=_PORTS.get(gpu))
        for i in range(number_of // count)
    )
    return Cluster(gpu, (kind,), hosts)


_PORTS = {"a100_dgx": Link(bandwidth=25e9, latency_s=1e-5)}
"""Networks of hosts, where collectives go over several."""


def _add(name: str, r: Row, op: str, gpus: int, moved: float, seconds: float, ref: str, findings: Findings) -> None:
    gpu = r["gpu"]
    if gpu not in LINKS:
        raise UnreadableError(f"link of {gpu}")
    if op not in _FORMULAS:
        raise UnreadableError(f"collective {op}")
    if moved > 0:
        predicted = _FORMULAS[op](_cluster(gpu, gpus), range(gpus), moved)
        size = "from 1 MB" if moved >= 1e6 else "below 1 MB"
        findings.add(Pair(f"{name} collectives, {gpu}, {size}", "time", predicted, seconds, ref=ref))


def run(data: Path, findings: Findings) -> None:
    """Adds a pair per measured collective."""

    def aiconfigurator(line: int, r: Row) -> None:
        seconds, ref = number(r, "ms") / 1e3, f"aiconfigurator/nccl.csv:{line}"
        _add("aiconfigurator", r, r["op"], whole(r, "num_gpus"), number(r, "bytes"), seconds, ref, findings)

    def vtrain(line: int, r: Row) -> None:
        seconds, ref = number(r, "time_ns") / 1e9, f"vtrain/allreduce_one_node.csv:{line}"
        _add("vtrain", r, "all_reduce", whole(r, "num_gpus"), number(r, "bytes"), seconds, ref, findings)

    def deepbench(line: int, r: Row) -> None:
        seconds, ref = number(r, "ms") / 1e3, f"deepbench/allreduce.csv:{line}"
        _add("deepbench", r, "all_reduce", whole(r, "gpus"), number(r, "bytes"), seconds, ref, findings)

    def aceso(line: int, r: Row) -> None:
        if r["op"] != "all_reduce" or number(r, "ms") <= 0:
            raise UnreadableError("copies before or after the collective are in the times, or there is no time")
        seconds, ref, moved = number(r, "ms") / 1e3, f"aceso/collectives_v100.csv:{line}", number(r, "size_mb") * 2**20
        _add("aceso", Row(r, gpu="V100"), "all_reduce", whole(r, "gpus"), moved, seconds, ref, findings)

    findings.each(data / "aiconfigurator" / "nccl.csv", "aiconfigurator collectives", aiconfigurator)
    findings.each(data / "vtrain" / "allreduce_one_node.csv", "vtrain collectives", vtrain)
    findings.each(data / "deepbench" / "allreduce.csv", "deepbench collectives", deepbench)
    findings.each(data / "aceso" / "collectives_v100.csv", "aceso collectives", aceso)
    _vidur(data, findings)
    _gradient_sums(data, findings)


def _vidur(data: Path, findings: Findings) -> None:
    """Vidur's networks: DGX hosts, and messages between two devices of one."""

    def read(line: int, r: Row) -> None:
        gpu, workers, here = r["system"], whole(r, "workers"), whole(r, "devices_per_node")
        moved, seconds, ref = number(r, "bytes"), number(r, "ms") / 1e3, f"vidur/network.csv:{line}"
        if gpu not in LINKS:
            raise UnreadableError(f"link of {gpu}")
        if workers > here and (gpu not in _PORTS or here == 1):
            raise UnreadableError(f"network of {gpu} with {here} device per host")
        if moved > 0:
            cluster = _cluster(gpu, workers, here)
            alone = r["op"] == "send_recv"
            predicted = transfer_s(LINKS[gpu], moved) if alone else all_reduce_s(cluster, range(workers), moved)
            size = "from 1 MB" if moved >= 1e6 else "below 1 MB"
            what = "messages" if alone else "collectives" if workers <= here else "collectives over hosts"
            findings.add(Pair(f"vidur {what}, {gpu}, {size}", "time", predicted, seconds, ref=ref))

    findings.each(data / "vidur" / "network.csv", "vidur collectives", read)


_GRADIENT_BYTES = {"bert": 4 * 110e6, "imagenet": 4 * 25.6e6, "cifar10": 4 * 11.2e6, "yolov3": 4 * 61.9e6}
"""Of AdaptDL's models in float32."""
_HIDDEN_S = 1e-3
"""Seconds below which a sum over hosts was overlapped."""
_T4_LINK, _T4_PORT = Link(bandwidth=11e9, latency_s=1e-5), Link(bandwidth=5e9 / 8, latency_s=5e-5)
"""PCIe; and what Amazon lets one TCP connection have of the host's 50 Gbit/s."""


def _gradient_sums(data: Path, findings: Findings) -> None:
    """AdaptDL's sums of gradients over uneven placements on hosts of up to four T4, over TCP."""
    kind = DeviceType(name="t4", memory_bytes=1)

    def read(line: int, r: Row) -> None:
        counts = [int(digit) for digit in r["gpus_per_node_digits"]]
        seconds, ref = number(r, "sync_s"), f"adaptdl/data_parallel_t4.csv:{line}"
        if sum(counts) < 2:
            raise UnreadableError("one GPU: nothing is summed")
        if r["model"] not in _GRADIENT_BYTES:
            raise UnreadableError(f"model {r['model']}")
        if len(counts) > 1 and seconds < _HIDDEN_S:
            raise UnreadableError("the sum is hidden behind the backward pass")
        hosts = tuple(
            Host(name=f"h{i}", devices=("t4",) * n, link=_T4_LINK, network=_T4_PORT) for i, n in enumerate(counts)
        )
        cluster = Cluster("g4dn", (kind,), hosts)
        predicted = all_reduce_s(cluster, range(sum(counts)), _GRADIENT_BYTES[r["model"]])
        where = "one host" if len(counts) == 1 else "hosts"
        findings.add(Pair(f"adaptdl sums over {where}, {r['model']}", "time", predicted, seconds, ref=ref))

    findings.each(data / "adaptdl" / "data_parallel_t4.csv", "adaptdl", read)
