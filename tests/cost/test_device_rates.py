"""The table of rates: its form, and what stands in where a device was not measured."""

import numpy as np
import pytest

from drlpp.cluster import device_presets
from drlpp.cost.device_rates import ANY, Rates, device_rates, op_class, rates, rates_of_row
from drlpp.cost.op_times import SAG_S, kernel_seconds


def test_rows_are_of_known_devices_and_say_where_they_come_from():
    for (device, _, _), rate in device_rates().items():
        assert device == ANY or device in device_presets()
        assert rate.source
        assert 0 < rate.compute <= 2.5
        assert 0 < rate.memory <= 1
        assert rate.launch_s < 1e-3
        assert rate.blend >= 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("aten.linear", "product"),
        ("aten.bmm", "product"),
        ("Linear", "product"),
        ("aten.conv2d", "convolution"),
        ("aten.conv2d.3x3", "fast-convolution"),
        ("aten.conv2d.grouped", "convolution"),
        ("aten.conv2d.channels_last", "product"),
        ("aten.scaled_dot_product_attention", "attention"),
        ("aten.lstm", "recurrent"),
        ("aten.layer_norm", None),
        ("aten.add", None),
    ],
)
def test_class_of_a_kind(kind, expected):
    assert op_class(kind) == expected


def test_own_measurements_come_first_then_the_other_16_bit_type_then_the_nearest_device():
    table = device_rates()
    assert rates("h100-sxm5-80gb", "product", "bfloat16") is table["h100-sxm5-80gb", "product", "bfloat16"]
    assert rates("h200-sxm-141gb", "product", "float16") is table["h200-sxm-141gb", "product", "bfloat16"]
    assert rates("rtx3090-24gb", "product", "float16") is table["rtx-a6000-48gb", "product", "float16"]
    assert rates("mi300x-192gb", "product", "bfloat16") is table[ANY, "product", "bfloat16"]
    assert rates("", "product", "float32") is table[ANY, "product", "float32"]
    assert rates("", "product", "int8") is table[ANY, "product", ANY]


def test_a_row_of_text():
    row = dict.fromkeys(("cache_mb", "cache_gain", "sag", "error_pct"), "")
    row |= {"compute": "0.5", "memory": "0.8", "launch_us": "3", "blend": "2", "fill_outputs": "10", "depth": "1"}
    rate = rates_of_row({**row, "source": "a paper"})
    assert (rate.compute, rate.launch_s, rate.error, rate.cache_bytes) == (0.5, 3e-6, None, 0.0)
    assert rates_of_row({**row, "source": "", "error_pct": "12.5"}).error == 0.125
    assert rates_of_row({**row, "source": "", "sag": "0.5"}).sag == 0.5


def test_long_products_take_longer_where_clocks_fall():
    seconds = np.array([SAG_S / 100, SAG_S, 100 * SAG_S])
    amounts = np.zeros((3, 5))
    amounts[:, 0] = seconds * 1e12

    def slower(sag):
        return kernel_seconds(amounts, 1e12, Rates(1.0, 1.0, 0.0, sag=sag), 1e12) / seconds

    assert slower(0.0) == pytest.approx([1.0, 1.0, 1.0])
    assert slower(0.6) == pytest.approx([1 + 0.6 / 101, 1.3, 1 + 60 / 101])
