"""The device database and the names of GPUs."""

import pytest

from drlpp.cluster.devices import CPU_PRESET, PRESET_OF_GPU, device_preset, device_presets, preset_of_gpu
from drlpp.errors import ClusterError


def test_gpus_have_presets_of_the_database():
    assert {preset for _, preset in PRESET_OF_GPU} <= set(device_presets())
    assert CPU_PRESET in device_presets()


@pytest.mark.parametrize(
    ("name", "preset"),
    [("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"), ("Tesla T4", "t4-16gb"), ("GeForce GT 710", "")],
)
def test_the_name_that_cuda_gives(name, preset):
    assert preset_of_gpu(name) == preset


def test_unknown_devices_are_refused_with_the_nearest_name():
    with pytest.raises(ClusterError, match="'t4-16g' is not known: did you mean 't4-16gb'"):
        device_preset("t4-16g")
