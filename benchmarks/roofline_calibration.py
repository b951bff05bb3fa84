"""Analytic op times against measured ones: ``python benchmarks/roofline_calibration.py FOLDER``.

FOLDER holds profiles that PipeDream published (``vgg16.txt``, ...; float32 on a V100). The same models are captured
with the batch of the profile. Each op with parameters, together with the ops that follow it, is compared with the
profile's layers with parameters of the same sizes and the layers that follow those.

Two things in the profiles are not costs of ops and are taken out: the time of the profiler itself, in the forward pass
of every layer (`PROFILER_S`), and the first layer, whose time includes the start of the library.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drlpp.capture import capture, load_model
from drlpp.cluster import device_preset
from drlpp.cost import roofline_times
from drlpp.graph import Op, OpGraph
from tables import machine, markdown, write_section

PROFILER_S = 0.27e-3
"""Forward time of the cheapest layer in every profile."""
ALEXNET = """
import torch, torchvision
def build():
    labels = torch.zeros(256, dtype=torch.long)
    loss = lambda out: torch.nn.functional.cross_entropy(out, labels)
    return torchvision.models.alexnet(), (torch.zeros(256, 3, 224, 224),), loss
"""
MODELS = {
    "vgg16": "timm:vgg16?batch_size=128",
    "alexnet": "alexnet.py:build",
    "resnet18": "timm:resnet18?batch_size=256",
    "resnet50": "timm:resnet50?batch_size=128",
    "densenet121": "timm:densenet121?batch_size=64",
}


def measured_segments(profile: Path) -> dict[float, list[tuple[float, float]]]:
    """Parameter bytes of a layer -> forward and backward seconds from it to the next layer with parameters."""
    layers = []
    for number, fields in re.findall(r"^node(\d+) -- .* -- (forward_compute_time=.*)$", profile.read_text(), re.M):
        costs = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", fields)}
        layers.append((int(number), costs))
    segments: list[list[float]] = []
    for _, costs in sorted(layers, key=lambda layer: layer[0]):
        if costs["parameter_size"]:
            segments.append([costs["parameter_size"], 0.0, 0.0])
        if segments and costs["forward_compute_time"]:
            segments[-1][1] += costs["forward_compute_time"] / 1e3 - PROFILER_S
            segments[-1][2] += costs["backward_compute_time"] / 1e3
    found = defaultdict(list)
    for size, forward_s, backward_s in segments:
        found[size].append((forward_s, backward_s))
    return found


def op_segments(graph: OpGraph) -> list[tuple[list[float], list[Op]]]:
    """Parameter bytes of the modules of an op with parameters, and the ops from it to the next such op."""
    segments: list[tuple[list[float], list[Op]]] = []
    for op in graph.ops:
        modules: dict[str, float] = defaultdict(float)
        for name in op.params:
            modules[name.rpartition(".")[0]] += graph.param_bytes[name]
        if modules:
            segments.append((list(modules.values()), [op]))
        elif segments:
            segments[-1][1].append(op)
    return segments


def matched_segments(graph: OpGraph, profile: Path) -> list[tuple[list[Op], float, float]]:
    """Ops of each segment, and its measured forward and backward seconds; without the first."""
    measured = measured_segments(profile)
    rows = []
    for sizes, ops in op_segments(graph):
        found = [measured[size].pop(0) for size in sizes]
        rows.append((ops, sum(f for f, _ in found), sum(b for _, b in found)))
    if any(measured.values()):
        raise SystemExit(f"{profile}: layers of the profile are not in the captured model")
    return rows[1:]


def compare(graph: OpGraph, profile: Path) -> NDArray[np.float64]:
    """``[num_segments, 4]`` predicted forward and backward, measured forward and backward seconds."""
    v100, rows = device_preset("v100-sxm2-16gb"), []
    for ops, forward_s, backward_s in matched_segments(graph, profile):
        times = np.array([roofline_times(op, v100, graph.dtype) for op in ops])
        rows.append((times[:, 0].sum(), times[:, 1:].sum(), forward_s, backward_s))
    return np.array(rows)


def captured_graphs() -> Iterator[tuple[str, OpGraph]]:
    """The models of the profiles, with the profiles' batches."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "alexnet.py").write_text(ALEXNET)
        for name, source in MODELS.items():
            yield name, capture(load_model(source.replace("alexnet.py", f"{scratch}/alexnet.py"))).graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows, totals = [], []
    for name, graph in captured_graphs():
        table = compare(graph, folder / f"{name}.txt")
        forward, backward = table[:, 0].sum() / table[:, 2].sum(), table[:, 1].sum() / table[:, 3].sum()
        predicted, measured = table[:, :2].sum(axis=1), table[:, 2:].sum(axis=1)
        long = measured > 1e-3
        errors = np.abs(predicted[long] / measured[long] - 1)
        totals.append(predicted.sum() / measured.sum())
        rows.append(
            [
                name,
                f"{measured.sum() * 1e3:.0f}",
                f"{predicted.sum() * 1e3:.0f}",
                f"{totals[-1] - 1:+.0%}",
                f"{forward - 1:+.0%}",
                f"{backward - 1:+.0%}",
                f"{np.median(errors):.0%} of {long.sum()}",
            ]
        )
    header = ["model", "measured ms", "predicted ms", "total", "forward", "backward", "median op over 1 ms"]
    write_section(
        "roofline-calibration",
        f"Analytic op times against PipeDream's published profiles (V100, float32), {machine()}.\n\n"
        f"Mean absolute error of a model's total: **{np.mean(np.abs(np.array(totals) - 1)):.1%}**.\n\n"
        + markdown(header, rows),
    )


if __name__ == "__main__":
    main()
