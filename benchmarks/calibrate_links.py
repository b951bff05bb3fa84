"""Fits what collectives of NCCL take inside a host: the constants of `drlpp.cost.collectives`, and rates of links.

``python benchmarks/calibrate_links.py DATA`` reads the NCCL times of AIConfigurator, Vidur and vTrain. The constants
are common to all kinds of hosts; a bandwidth and a latency are fitted to each. Nothing is written: the figures stand in
`drlpp.cost.collectives`, in the presets and in `truth.collective_sets`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from truth.rows import number, read_rows, whole

HALVES = {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5}
NOT_FITTED = ("l40s",)
"""Hosts whose times are pathological, as their source says."""
START = np.log([1.2e-6, 40.0, 6e6])


def measurements(data: Path) -> list[tuple[str, float, int, float, float]]:
    """Kind of host, part of an all-reduce, members, bytes and seconds of every collective inside a host."""
    rows = []
    for _, r in read_rows(data / "aiconfigurator" / "nccl.csv"):
        if r["op"] in HALVES and r["gpu"] not in NOT_FITTED:
            rows.append((r["gpu"], HALVES[r["op"]], whole(r, "num_gpus"), number(r, "bytes"), number(r, "ms") / 1e3))
    for _, r in read_rows(data / "vtrain" / "allreduce_one_node.csv"):
        if r["gpu"] == "A100":  # pairs of V100 have one or two NVLinks
            rows.append((r["gpu"], 1.0, whole(r, "num_gpus"), number(r, "bytes"), number(r, "time_ns") / 1e9))
    for _, r in read_rows(data / "vidur" / "network.csv"):
        alone = r["op"] == "all_reduce" and r["workers"] == r["devices_per_node"] and r["system"].endswith("_dgx")
        if alone and number(r, "bytes"):
            rows.append((r["system"], 1.0, whole(r, "workers"), number(r, "bytes"), number(r, "ms") / 1e3))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    rows = measurements(parser.parse_args().data)
    kinds = sorted({row[0] for row in rows})
    host = np.array([kinds.index(row[0]) for row in rows])
    part, members, size, measured = (np.array(column) for column in list(zip(*rows, strict=True))[1:])
    steps = 2.0 * (members - 1)

    def seconds(x: NDArray[np.float64]) -> NDArray[np.float64]:
        step_s, fill_steps, fill_bytes = np.exp(x[:3])
        bandwidth, latency_s = np.exp(x[3 : 3 + len(kinds)])[host], np.exp(x[3 + len(kinds) :])[host]
        filling = fill_steps * size / (size + fill_bytes)
        return latency_s + part * (steps / members * size / bandwidth + (steps + filling) * step_s)

    first = np.concatenate([START, np.full(len(kinds), np.log(3e11)), np.full(len(kinds), np.log(8e-6))])
    found = least_squares(lambda x: np.log(seconds(x) / measured), first, loss="soft_l1", f_scale=0.1).x
    step_s, fill_steps, fill_bytes = np.exp(found[:3])
    print(
        f"{len(rows)} times: {step_s * 1e6:.2f} us per step, {fill_steps:.0f} steps, half at {fill_bytes / 1e6:.1f} MB"
    )
    error = np.abs(seconds(found) / measured - 1)
    for k, kind in enumerate(kinds):
        rate, latency_s = np.exp(found[3 + k]), np.exp(found[3 + len(kinds) + k])
        print(f"{kind:20} {rate / 1e9:5.0f} GB/s {latency_s * 1e6:5.1f} us  error {error[host == k].mean():.1%}")


if __name__ == "__main__":
    main()
