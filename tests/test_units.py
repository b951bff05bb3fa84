"""Parsing and printing of quantities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drlpp import units
from drlpp.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [("80GB", 80e9), ("16GiB", 16 * 2**30), ("1e9", 1e9), (5, 5), ("1.5 MB", 1.5e6), ("10B", 10)],
)
def test_bytes(text, value):
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("25Gbit/s", 3.125e9), ("300GB/s", 300e9), ("10Gbps", 1.25e9), ("1e9", 1e9), ("100 Mb/s", 12.5e6)],
)
def test_bandwidth(text, value):
    assert units.parse_bandwidth(text) == value


@pytest.mark.parametrize(("text", "value"), [("5us", 5e-6), ("5µs", 5e-6), ("0.1", 0.1), ("2 ms", 2e-3), (3, 3.0)])
def test_time(text, value):
    assert units.parse_time(text) == pytest.approx(value)


def test_flops():
    assert units.parse_flops("312TFLOP/s") == 312e12


@pytest.mark.parametrize("parse", [units.parse_bytes, units.parse_bandwidth, units.parse_time, units.parse_flops])
@pytest.mark.parametrize("bad", ["", "fast", "12 parsecs", "GB", None, [], True, "1e999", float("nan")])
def test_what_is_not_a_quantity_is_refused_with_an_example(parse, bad):
    with pytest.raises(InputError, match="is not"):
        parse(bad)


def test_a_unit_of_another_quantity_is_refused():
    with pytest.raises(InputError, match="bandwidth"):
        units.parse_bandwidth("5us")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1.5e9, "1.5 GB"), (999.9e6, "1 GB"), (2.5e3, "2.5 kB"), (5e18, "5000 PB")],
)
def test_format_bytes(value, text):
    assert units.format_bytes(value) == text


def test_format_other_quantities():
    assert units.format_time(0.0123) == "12.3 ms"
    assert units.format_time(4e-7) == "400 ns"
    assert units.format_bandwidth(3.125e9) == "3.12 GB/s"
    assert units.format_flop(4.1e9) == "4.1 GFLOP"


@given(st.floats(min_value=1e-9, max_value=1e4))
def test_printed_times_parse_back(value):
    assert units.parse_time(units.format_time(value)) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_beyond_double_precision_are_refused(digits):
    with pytest.raises(InputError, match="bits is not an amount of memory: it must be finite"):
        units.parse_bytes(10**digits)
