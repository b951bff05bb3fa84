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

from truth.rows import Findings, Row, number, whole

HALVES = {"all_reduce": 1.0, "all_gather": 0.5, "reduce_scatter": 0.5}
NOT_FITTED = ("l40s",)
"""Hosts whose times are pathological, as their source says."""
START = np.log([1.2e-6, 40.0, 6e6])


Measurement = tuple[str, float, int, float, float]
"""Kind of host, part of an all-reduce, members, bytes and seconds."""


def measurements(data: Path) -> list[Measurement]:
    """Every collective inside a host."""
    findings = Findings()

    def aiconfigurator(_: int, r: Row) -> Measurement | None:
        fitted = r["op"] in HALVES and r["gpu"] not in NOT_FITTED
        return (r["gpu"], HALVES[r["op"]], whole(r, "num_gpus"), *_amounts(r, "ms", 1e3)) if fitted else None

    def vtrain(_: int, r: Row) -> Measurement | None:
        pairs = r["gpu"] != "A100"  # pairs of V100 have one or two NVLinks
        return None if pairs else (r["gpu"], 1.0, whole(r, "num_gpus"), *_amounts(r, "time_ns", 1e9))

    def vidur(_: int, r: Row) -> Measurement | None:
        alone = r["op"] == "all_reduce" and r["workers"] == r["devices_per_node"] and r["system"].endswith("_dgx")
        return (r["system"], 1.0, whole(r, "workers"), *_amounts(r, "ms", 1e3)) if alone else None

    tables = {"aiconfigurator/nccl": aiconfigurator, "vtrain/allreduce_one_node": vtrain, "vidur/network": vidur}
    found = [row for name, read in tables.items() for row in findings.each(data / f"{name}.csv", name, read)]
    return [row for row in found if min(row[2:]) > 0]


def _amounts(row: Row, column: str, per_second: float) -> tuple[float, float]:
    """Bytes and seconds."""
    return number(row, "bytes"), number(row, column) / per_second


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
