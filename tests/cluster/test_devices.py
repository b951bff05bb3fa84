"""The device database and the names that GPUs report."""

import pytest

from drlpp.cluster import device_preset, device_presets
from drlpp.cluster.devices import CPU_PRESET, preset_of_gpu, similar_device
from drlpp.errors import ClusterError


@pytest.mark.parametrize(
    ("reported", "preset"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H100 NVL", "h100-nvl-94gb"),
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA B200", "b200-sxm-180gb"),
        ("NVIDIA GB200", "gb200-186gb"),
        ("Tesla T4", "t4-16gb"),
        ("Tesla P100-PCIE-16GB", "p100-pcie-16gb"),
        ("Tesla P40", "p40-24gb"),
        ("Tesla P4", "p4-8gb"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb"),
        ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"),
        ("NVIDIA A10", "a10-24gb"),
        ("NVIDIA A10G", "a10g-24gb"),
        ("NVIDIA A40", "a40-48gb"),
        ("NVIDIA L4", "l4-24gb"),
        ("NVIDIA L40S", "l40s-48gb"),
        ("NVIDIA RTX A6000", "rtx-a6000-48gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-96gb"),
        ("NVIDIA GeForce GTX 1080 Ti", "gtx1080ti-11gb"),
        ("NVIDIA GeForce RTX 2080", "rtx2080-8gb"),
        ("NVIDIA GeForce RTX 2080 Ti", "rtx2080ti-11gb"),
        ("NVIDIA TITAN RTX", "titan-rtx-24gb"),
        ("NVIDIA GeForce RTX 3090", "rtx3090-24gb"),
        ("NVIDIA GeForce RTX 4080", "rtx4080-16gb"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24gb"),
        ("NVIDIA GeForce RTX 5090", "rtx5090-32gb"),
        ("AMD Instinct MI250X", "mi250x-gcd-64gb"),
        ("AMD Instinct MI210", "mi210-64gb"),
        ("AMD Instinct MI300X", "mi300x-192gb"),
        ("NVIDIA GeForce GT 710", ""),
    ],
)
def test_gpus_are_known_by_the_names_that_they_report(reported, preset):
    assert preset_of_gpu(reported) == preset


def test_rates_are_borrowed_from_devices_of_the_database_and_never_in_a_circle():
    known = device_presets()
    for name in known:
        seen = {name}
        while name := similar_device(name):
            assert name in known
            assert name not in seen
            seen.add(name)
    assert similar_device("no such device") == ""


def test_unknown_device():
    with pytest.raises(ClusterError, match=r"device preset 'a100-sxm4-80' is not known: did you mean"):
        device_preset("a100-sxm4-80")


def test_every_row_has_a_source_and_a_speed():
    for device in device_presets().values():
        assert device.source
        assert device.speed == pytest.approx(device.peak("float32") / 15.7e12)
    assert device_preset(CPU_PRESET).host_op_s == 0
