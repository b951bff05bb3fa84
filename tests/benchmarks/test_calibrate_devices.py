"""The table of rates that ships, against the script that writes it."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def calibrate(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("calibrate_devices")


def test_rows_without_measurements_are_the_medians_of_the_others(calibrate):
    shipped = calibrate.TABLE.read_text()
    rows = calibrate.rows_of(shipped)
    written = calibrate.text({**calibrate.means(rows), **rows})
    found = calibrate.differences(shipped, written)
    assert found == ["- *,*,*,0.600,0.750,4.00,3.00,0,0.0,,,,0,,not measured"]


def test_rows_of_profiles_are_those_of_a_v100(calibrate):
    assert {device for device, _, _ in calibrate.rows_of_profiles()} == {"v100-sxm2-16gb"}


def test_differences_name_both_sides(calibrate):
    assert calibrate.differences("a\nb\n", "a\nc\n") == ["- b", "+ c"]
    assert calibrate.differences("a\n", "a\n") == []
