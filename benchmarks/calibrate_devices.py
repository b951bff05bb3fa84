"""Fits what kernels reach on each device, and writes the table that the package ships.

``python benchmarks/calibrate_devices.py DATA`` reads the calibration sets of DATA (AIConfigurator, NeuSight, DeepBench,
Vidur, Aceso: single operators; Zorse and Cephalo: layers) and writes ``src/drlpp/cost/device_rates.csv``. With
``--profiles FOLDER``, the profiles of PipeDream set the convolutions of a V100; without, these rows stay as they are.
``--check`` writes nothing and names the rows that would differ. Test sets are never read.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import drlpp.cost.device_rates as table
from drlpp.cluster import device_preset
from drlpp.cluster.devices import similar_device
from drlpp.cost.device_rates import ANY, OpClass, Rates, op_class
from drlpp.cost.op_times import class_of
from drlpp.files import write_atomically
from roofline_calibration import captured_graphs, matched_segments
from truth.fitting import CACHED, FREE, PRODUCT, Sample, fit
from truth.layers import LayerRow, layer_graph, zorse
from truth.ops import EAGER, OpRow, all_ops
from truth.rows import Findings

TABLE = Path(table.__file__).with_name("device_rates.csv")
COLUMNS = (
    "device", "op_class", "dtype", "compute", "memory", "launch_us", "blend", "fill_outputs", "depth", "cache_mb",
    "cache_gain", "sag", "rows", "error_pct", "source",
)  # fmt: skip
Key = tuple[str, OpClass, str]
START: dict[OpClass, Rates] = {
    "product": Rates(0.7, 0.8, 3e-6, 3.0, 5e4, 60.0, 1e7, 0.1, 0.05),
    "attention": Rates(0.5, 0.8, 5e-6, 3.0, 3e3, 100.0),
    "convolution": Rates(0.5, 0.7, 5e-6, 3.0, 3e3, 60.0),
    "fast-convolution": Rates(0.6, 0.7, 5e-6, 3.0, 3e3, 60.0),
    "recurrent": Rates(0.5, 0.7, 1e-5, 3.0),
    "memory": Rates(1.0, 0.8, 3e-6, 3.0),
}
NOT_FITTED = {("vidur", "memory")}
"""Kernels that fuse more than the table says."""
_SHAPES = ("compute", "launch_s", "blend", "fill_outputs", "depth")
FREE_OF: dict[OpClass, tuple[str, ...]] = {
    "memory": ("memory",),
    "recurrent": ("compute", "launch_s"),
    "convolution": _SHAPES,
    "fast-convolution": (*_SHAPES, "memory"),
}
"""What is fitted where it is not all of `FREE`."""
PROFILED, _LONG_S = "v100-sxm2-16gb", 1e-3
"""The device of PipeDream's profiles, and seconds above which their layers are fitted."""
LAYER_CLASSES = ("product", "attention", "memory")


@dataclasses.dataclass
class Fitted:
    """A row of the table."""

    rates: Rates
    rows: int


def element_of(row: OpRow) -> str:
    """The element type whose rates a row tells of: PyTorch runs convolutions of float32 in TF32 where it can."""
    fast = row.dtype == "float32" and "conv" in row.kind and "tf32" in dict(device_preset(row.device).peak_flops)
    return "tf32" if fast else row.dtype


def samples(ops: list[OpRow], layers: list[LayerRow]) -> dict[tuple[str, str, str], Sample]:
    """Device, family of classes and element type -> all that was measured of it.

    Products, attention and kernels that are bound by memory are one family, since layers consist of them.
    """
    out: dict[tuple[str, str, str], Sample] = defaultdict(Sample)
    for row in ops:
        kind = op_class(row.kind) or "memory"
        if (row.set.split()[0], kind) in NOT_FITTED:
            continue
        family = "layers" if kind in LAYER_CLASSES else kind.removeprefix("fast-")
        name = row.set.split()[0]
        out[row.device, family, element_of(row)].add(f"{name} {kind}", [(kind, row.work)], row.seconds)
    for layer in layers:
        parts = layer_graph(layer.shape).ops
        sample = out[layer.device, "layers", layer.shape.dtype]
        sample.add("zorse-cephalo forward", [(class_of(op), op.forward) for op in parts], layer.forward_s)
        back = [(class_of(op), w) for op in parts for w in (op.input_grad, op.weight_grad)]
        sample.add("zorse-cephalo backward", back, layer.backward_s)
    for sample in out.values():
        sample.eager = {s for s in sample.sets if s.split()[0] in EAGER}
    return out


def free_figures(sample: Sample, kind: OpClass) -> tuple[str, ...]:
    """What a sample can tell of a class: layers do not show the effects of shapes, single operators do."""
    alone = {s for s in sample.sets if s.endswith(f" {kind}")}
    if kind == "product":
        cached = any(s.startswith("aiconfigurator") for s in alone)
        return CACHED if cached else PRODUCT if alone else ("compute", "sag")
    if not alone:
        return ("memory",) if kind == "memory" else ("compute",)
    return FREE_OF.get(kind, FREE)


def fit_all(found: dict[tuple[str, str, str], Sample]) -> tuple[dict[Key, Fitted], dict[tuple[str, str], float]]:
    """Rows of the table, and the host's seconds by device and eager set.

    What single operators tell comes first: layers start from it.
    """
    out: dict[Key, Fitted] = {}
    hosts: dict[tuple[str, str], float] = {}
    for (name, _, element), sample in sorted(found.items(), key=lambda item: _only_layers(item[1])):
        device, kinds = device_preset(name), list(dict.fromkeys(sample.classes))
        result = fit(
            sample,
            device,
            {k: device.peak(element) for k in kinds},
            {k: start_of(name, k, element, out) for k in kinds},
            {k: free_figures(sample, k) for k in kinds},
            held=("memory",) if not any(s.endswith(" memory") for s in sample.sets) else (),
        )
        hosts |= {(name, s): v for s, v in result.host_s.items()}
        for kind in kinds:
            sets = [s for (k, s) in result.error if k == kind]
            rows = sum(result.rows[kind, s] for s in sets)
            error = sum(result.error[kind, s] * result.rows[kind, s] for s in sets) / rows
            source = " and ".join(sorted({s.split()[0] for s in sets}))
            out[name, kind, element] = Fitted(dataclasses.replace(result.rates[kind], error=error, source=source), rows)
    return out, hosts


def _only_layers(sample: Sample) -> bool:
    return all(s.startswith("zorse") for s in sample.sets)


def fit_profiles(folder: Path, rows: dict[Key, Fitted]) -> dict[Key, Fitted]:
    """Convolutions and memory of a V100 in whole models: alone, with the best algorithm, convolutions are faster."""
    sample, device = Sample(), device_preset(PROFILED)
    for name, graph in captured_graphs():
        for ops, forward_s, backward_s in matched_segments(graph, folder / f"{name}.txt"):
            if forward_s + backward_s > _LONG_S:
                works = [(class_of(op), w) for op in ops for w in (op.forward, op.input_grad, op.weight_grad)]
                sample.add("pipedream", works, forward_s + backward_s)
    kinds = list(dict.fromkeys(sample.classes))
    start = {k: rows[PROFILED, k, "float32"].rates for k in kinds}
    free = {k: ("compute",) if "convolution" in k else ("memory",) if k == "memory" else () for k in kinds}
    result = fit(sample, device, {k: device.peak("float32") for k in kinds}, start, free)
    out: dict[Key, Fitted] = {}
    for kind in kinds:
        if free[kind]:
            count, error = result.rows[kind, "pipedream"], result.error[kind, "pipedream"]
            rate = dataclasses.replace(result.rates[kind], error=error, source="pipedream; starts from other sets")
            out[PROFILED, kind, "float32"] = Fitted(rate, count)
    return out


def rows_of(table_text: str) -> dict[Key, Fitted]:
    """The measured rows of a table, with the figures that it shows."""
    classes: dict[str, OpClass] = {kind: kind for kind in START}
    return {
        (row["device"], classes[row["op_class"]], row["dtype"]): Fitted(table.rates_of_row(row), int(row["rows"]))
        for row in csv.DictReader(table_text.splitlines())
        if row["device"] != ANY
    }


def rows_of_profiles() -> dict[Key, Fitted]:
    """The rows of the present table that profiles were fitted to."""
    present = rows_of(TABLE.read_text(encoding="utf-8"))
    return {key: row for key, row in present.items() if row.rates.source.startswith("pipedream")}


def differences(before: str, after: str) -> list[str]:
    """What to print of the rows that two tables do not share."""
    old, new = before.splitlines(), after.splitlines()
    return [*(f"- {row}" for row in old if row not in new), *(f"+ {row}" for row in new if row not in old)]


def start_of(name: str, kind: OpClass, element: str, known: dict[Key, Fitted]) -> Rates:
    """Where a fit starts: what is known of the class on the device or one like it, in this or another type."""
    device = name
    while device:
        for other in (element, "bfloat16", "float16", "float32"):
            if (device, kind, other) in known and kind in ("memory", "attention"):
                return known[device, kind, other].rates
        device = similar_device(device)
    return START[kind]


def means(rows: dict[Key, Fitted]) -> dict[tuple[str, str, str], Fitted]:
    """Rows for devices without measurements: medians over the devices, by class and by element type."""
    groups: dict[tuple[str, str], list[Rates]] = defaultdict(list)
    for (_, kind, dtype), row in rows.items():
        groups[kind, dtype].append(row.rates)
        groups[kind, ANY].append(row.rates)
    out: dict[tuple[str, str, str], Fitted] = {}
    for (kind, dtype), found in groups.items():
        middle = {name: float(np.median([getattr(r, name) for r in found])) for name in PRODUCT}
        spread = float(np.median([abs(r.compute / middle["compute"] - 1) for r in found]))
        if kind == "memory":
            spread = float(np.median([abs(r.memory / middle["memory"] - 1) for r in found]))
        source = f"not measured: medians of {len(found)} devices"
        out[ANY, kind, dtype] = Fitted(Rates(**middle, error=None, source=f"{source}, which differ by {spread:.0%}"), 0)
    return out


def text(rows: dict[tuple[str, str, str], Fitted]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (device, kind, dtype), row in sorted(rows.items()):
        r = row.rates
        error = "" if r.error is None else f"{100 * r.error:.1f}"
        cache = (f"{r.cache_bytes / 1e6:.1f}", f"{r.cache_gain:.2f}") if r.cache_bytes else ("", "")
        figures = (f"{r.compute:.3f}", f"{r.memory:.3f}", f"{r.launch_s * 1e6:.2f}", f"{r.blend:.2f}")
        sizes = (f"{r.fill_outputs:.0f}", f"{r.depth:.1f}")
        sag = f"{r.sag:.2f}" if r.sag else ""
        writer.writerow([device, kind, dtype, *figures, *sizes, *cache, sag, row.rows, error, r.source])
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--profiles", type=Path, help="PipeDream's published profiles: convolutions of a V100")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the table would change")
    given = parser.parse_args()
    data = given.data
    findings = Findings()
    rows, hosts = fit_all(samples(list(all_ops(data, findings)), zorse(data, findings)))
    rows |= fit_profiles(given.profiles, rows) if given.profiles else rows_of_profiles()
    rows = rows_of(text(rows))  # medians are those of the figures in the table, whoever fitted them
    generic = Fitted(Rates(0.6, 0.75, 4e-6, 3.0, source="not measured"), 0)
    everything = {(ANY, ANY, ANY): generic, **means(rows), **rows}
    if given.check:
        found = differences(TABLE.read_text(encoding="utf-8"), text(everything))
        print("\n".join(found) or f"{TABLE.name} is what {data} gives, to the bit")
        sys.exit(bool(found))
    write_atomically(TABLE, text(everything))
    for (device, kind, dtype), row in sorted(rows.items()):
        print(f"{device:20} {kind:17} {dtype:9} {row.rows:5} rows {row.rates.error or 0:6.1%}  {row.rates.source}")
    for (device, name), seconds in sorted(hosts.items()):
        print(f"{device:20} {name:25} host {seconds * 1e6:5.1f} us per operator")


if __name__ == "__main__":
    main()
