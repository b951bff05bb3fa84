"""What `drlpp devices` lists."""

import json

from drlpp.cli.main import run_command_line
from drlpp.cluster import device_presets
from drlpp.cost.device_summary import device_summaries


def test_every_device_says_its_error_or_that_it_has_none():
    for summary in device_summaries():
        assert bool(summary.errors) != bool(summary.without)
        assert bool(summary.errors) == bool(summary.sources)
        assert summary.as_dict()["measured_error"] == summary.errors
        assert len(set(summary.sources)) == len(summary.sources)


def test_errors_are_told_by_class_of_op():
    """An average would hide which ops are off: recurrent ones, by many times on one device."""
    (found,) = [s for s in device_summaries() if s.name == "p100-pcie-16gb"]
    assert found.errors["float16"]["recurrent"] > 1 > found.errors["float16"]["product"]
    assert found.sources == ("deepbench", "neusight", "zorse-cephalo")


def test_a_device_without_measurements_says_whose_figures_it_takes():
    found = {s.name: s for s in device_summaries()}
    assert "rtx-a6000-48gb" in found["rtx3090-24gb"].without
    assert "medians of all devices" in found["tpu-v4-32gb"].without
    assert max(found["h100-sxm5-80gb"].errors["bfloat16"].values()) < 0.12


def test_the_verb(capsys):
    assert run_command_line(["devices", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(device_presets())
    assert run_command_line(["devices"]) == 0
    assert "h100-sxm5-80gb" in capsys.readouterr().out
