"""The device database: dense peak rates, memory and memory bandwidth, each row with its source.

Peaks are without sparsity. ``float32`` is the rate that PyTorch gets by default (no TF32 for matrix products);
``tf32``, ``bfloat16`` and ``float16`` are tensor-core or matrix-core rates. Memory is the nominal size in decimal
bytes as the vendor prints it. `speed` is the float32 peak relative to the V100, the device of most published profiles.
"""

from __future__ import annotations

from drlpp.cluster.cluster import DeviceType
from drlpp.errors import ClusterError, did_you_mean

_T, _GB = 1e12, 10**9
REFERENCE_PRESET = "v100-sxm2-16gb"
"""Device that `DeviceType.speed` is relative to."""
CPU_PRESET = "cpu-core"
"""The one row of the database that is no accelerator."""


def _device(
    name: str, memory_gb: float, bandwidth_gb_s: float, source: str, **peaks_tflops: float
) -> tuple[str, DeviceType]:
    return name, DeviceType(
        name=name,
        preset=name,
        memory_bytes=round(memory_gb * _GB),
        memory_bandwidth=bandwidth_gb_s * 1e9,
        peak_flops=tuple((dtype, peak * _T) for dtype, peak in peaks_tflops.items()),
        speed=peaks_tflops["float32"] / 15.7,
        source=source,
    )


_ROWS = dict(
    [
        _device("p100-pcie-16gb", 16, 732, "NVIDIA Tesla P100 PCIe data sheet", float32=9.3, float16=18.7),
        _device("v100-sxm2-16gb", 16, 900, "NVIDIA V100 data sheet (SXM2)", float32=15.7, float16=125.0),
        _device("v100-sxm2-32gb", 32, 900, "NVIDIA V100 data sheet (SXM2)", float32=15.7, float16=125.0),
        _device("v100-pcie-16gb", 16, 900, "NVIDIA V100 data sheet (PCIe)", float32=14.0, float16=112.0),
        _device("t4-16gb", 16, 320, "NVIDIA T4 data sheet", float32=8.1, float16=65.0),
        _device("gtx1080ti-11gb", 11, 484, "NVIDIA GeForce GTX 1080 Ti specifications", float32=11.3),
        _device("rtx2080ti-11gb", 11, 616, "NVIDIA Turing architecture white paper", float32=13.4, float16=53.8),
        _device(
            "rtx3090-24gb",
            24,
            936,
            "NVIDIA Ampere GA102 white paper",
            float32=35.6,
            tf32=35.6,
            bfloat16=71.0,
            float16=71.0,
        ),
        _device(
            "rtx4090-24gb", 24, 1008, "NVIDIA Ada white paper", float32=82.6, tf32=82.6, bfloat16=165.2, float16=165.2
        ),
        _device("a10-24gb", 24, 600, "NVIDIA A10 data sheet", float32=31.2, tf32=62.5, bfloat16=125.0, float16=125.0),
        _device("l4-24gb", 24, 300, "NVIDIA L4 data sheet", float32=30.3, tf32=60.0, bfloat16=121.0, float16=121.0),
        _device(
            "l40s-48gb", 48, 864, "NVIDIA L40S data sheet", float32=91.6, tf32=183.0, bfloat16=362.0, float16=362.0
        ),
        _device(
            "a100-sxm4-40gb",
            40,
            1555,
            "NVIDIA A100 data sheet (40 GB)",
            float32=19.5,
            tf32=156.0,
            bfloat16=312.0,
            float16=312.0,
        ),
        _device(
            "a100-sxm4-80gb",
            80,
            2039,
            "NVIDIA A100 data sheet (80 GB SXM)",
            float32=19.5,
            tf32=156.0,
            bfloat16=312.0,
            float16=312.0,
        ),
        _device(
            "a100-pcie-80gb",
            80,
            1935,
            "NVIDIA A100 data sheet (80 GB PCIe)",
            float32=19.5,
            tf32=156.0,
            bfloat16=312.0,
            float16=312.0,
        ),
        _device(
            "h100-sxm5-80gb",
            80,
            3350,
            "NVIDIA H100 data sheet (SXM5)",
            float32=67.0,
            tf32=494.5,
            bfloat16=989.5,
            float16=989.5,
        ),
        _device(
            "h100-pcie-80gb",
            80,
            2000,
            "NVIDIA H100 data sheet (PCIe)",
            float32=51.0,
            tf32=378.0,
            bfloat16=756.5,
            float16=756.5,
        ),
        _device(
            "h200-sxm-141gb",
            141,
            4800,
            "NVIDIA H200 data sheet",
            float32=67.0,
            tf32=494.5,
            bfloat16=989.5,
            float16=989.5,
        ),
        _device(
            "b200-sxm-180gb",
            180,
            8000,
            "NVIDIA DGX B200 data sheet (per GPU)",
            float32=75.0,
            tf32=1125.0,
            bfloat16=2250.0,
            float16=2250.0,
        ),
        _device(
            "mi250x-gcd-64gb",
            64,
            1638,
            "AMD Instinct MI250X data sheet (one of two dies)",
            float32=23.95,
            bfloat16=191.5,
            float16=191.5,
        ),
        _device(
            "mi300x-192gb",
            192,
            5300,
            "AMD Instinct MI300X data sheet; PyTorch does not use its xf32 by itself",
            float32=163.4,
            bfloat16=1307.4,
            float16=1307.4,
        ),
        _device(
            "tpu-v4-32gb",
            32,
            1228,
            "Google Cloud TPU v4 documentation; float32 as 6 bfloat16 passes",
            float32=45.8,
            bfloat16=275.0,
        ),
        _device(
            CPU_PRESET, 8, 10, "order of magnitude of one AVX2 server core; profile for real figures", float32=0.05
        ),
    ]
)

PRESET_OF_GPU = (
    ("b200", "b200-sxm-180gb"),
    ("h200", "h200-sxm-141gb"),
    ("h100 pcie", "h100-pcie-80gb"),
    ("h100", "h100-sxm5-80gb"),
    ("a100-sxm4-80gb", "a100-sxm4-80gb"),
    ("a100-sxm", "a100-sxm4-40gb"),
    ("a100", "a100-pcie-80gb"),
    ("l40s", "l40s-48gb"),
    (" l4", "l4-24gb"),
    (" a10", "a10-24gb"),
    ("rtx 4090", "rtx4090-24gb"),
    ("rtx 3090", "rtx3090-24gb"),
    ("2080 ti", "rtx2080ti-11gb"),
    ("1080 ti", "gtx1080ti-11gb"),
    ("t4", "t4-16gb"),
    ("v100-sxm2-32gb", "v100-sxm2-32gb"),
    ("v100-pcie", "v100-pcie-16gb"),
    ("v100", "v100-sxm2-16gb"),
    ("p100", "p100-pcie-16gb"),
    ("mi300x", "mi300x-192gb"),
    ("mi250x", "mi250x-gcd-64gb"),
)
"""What a GPU's name contains (in lower case) -> device of the database, first match first."""


def device_presets() -> dict[str, DeviceType]:
    """Name -> device type of the database."""
    return dict(_ROWS)


def device_preset(name: str) -> DeviceType:
    """A row of the database. Raises ClusterError that lists the known names."""
    if name not in _ROWS:
        raise ClusterError(
            f"device preset {name!r} is not known: {did_you_mean(name, _ROWS)}use one of {', '.join(_ROWS)}"
        )
    return _ROWS[name]


def preset_of_gpu(name: str) -> str:
    """The device of the database that a GPU is, by the name that CUDA gives it; empty if none is known."""
    return next((preset for words, preset in PRESET_OF_GPU if words in f" {name}".lower()), "")
