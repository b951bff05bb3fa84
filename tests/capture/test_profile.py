from __future__ import annotations

import importlib
import json
import logging

import pytest
import torch

from capture_models import inputs_of
from drlpp.capture import CapturedModel, capture, capture_module, load_model
from drlpp.capture.profile import profile
from drlpp.errors import CaptureError, InputError
from drlpp.graph import REFERENCE

profile_module = importlib.import_module("drlpp.capture.profile")  # the package exports the function of this name


@pytest.fixture(scope="module")
def captured() -> CapturedModel:
    return capture_module(*inputs_of("branchy"))


def test_every_op_gets_times(captured, tmp_path):
    result = profile(captured, repeats=2, cache=tmp_path / "calls.json", measured_on="cpu-core")
    times = [op.times[REFERENCE] for op in result.graph.ops]
    assert all(t.forward_s > 0 for t in times)
    total = sum(t.forward_s + t.input_grad_s + t.weight_grad_s for t in times)
    assert total == pytest.approx(result.step_s)
    assert result.scale == pytest.approx(result.step_s / result.sum_of_ops_s)
    assert result.graph.measured_on == "cpu-core"
    assert result.num_measured > 10
    for op, t in zip(result.graph.ops, times, strict=True):
        assert (t.weight_grad_s > 0) <= bool(op.params)
    first = result.graph.ops[0]
    assert first.kind == "aten.conv2d.3x3"
    assert first.times[REFERENCE].input_grad_s == 0, "the images need no gradient"


def test_the_step_is_timed_beside_other_processes(captured, tmp_path):
    cache = tmp_path / "calls.json"
    assert profile(captured, repeats=1, cache=cache, processes=1).graph.slowdown == ()
    result = profile(captured, repeats=3, cache=cache, processes=3)
    assert result.num_measured == 0
    alone, beside_one, beside_two = result.graph.slowdown
    assert 1.0 == alone <= beside_one <= beside_two
    assert all(p.grad is None for p in captured.module.parameters())


def test_curves_and_scales_of_steps():
    """Between 2 and 5 processes the curve is straight; a step that got faster was an accident."""
    steps = {1: (1.0, 3.0), 2: (1.0, 2.9), 5: (2.0, 4.0)}
    assert profile_module._slowdown(steps) == (1.0, 1.0, 1.1667, 1.3333, 1.5)
    times = [(1.0, 1.0, 0.0), (1.0, 2.0, 3.0)]
    assert profile_module._scales((4.0, 3.0), times) == (2.0, 0.5, 0.5)
    assert profile_module._scales((4.0, 0.0), times) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("processes", [0, -1])
def test_number_of_processes_must_be_positive(captured, processes):
    with pytest.raises(InputError, match=f"processes is {processes}"):
        profile(captured, processes=processes)


def test_a_gpu_is_profiled_by_one_process(captured, monkeypatch):
    monkeypatch.setattr(profile_module, "_device", lambda name: torch.device("cuda"))
    with pytest.raises(InputError, match="profile it with one process"):
        profile(captured, device="cuda", processes=2)


def test_a_neighbour_that_does_not_start(captured, monkeypatch):
    monkeypatch.setattr(profile_module, "NEIGHBOUR_START_S", 0.01)
    monkeypatch.setattr(profile_module, "_run_until", lambda captured, stop, running: stop.wait())
    with pytest.raises(CaptureError, match="did not start"):
        profile(captured, repeats=1, processes=2)


def test_other_keys(captured):
    result = profile(captured, repeats=1, key="my-cpu")
    assert set(result.graph.ops[0].times) == {"my-cpu"}
    assert result.graph.measured_on == ""


def test_the_model_is_left_as_it_was():
    captured = capture_module(*inputs_of("in-place"))
    before = {k: v.clone() for k, v in captured.module.state_dict().items()}
    profile(captured, repeats=1)
    after = captured.module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in captured.module.parameters())


def test_known_calls_are_not_measured_again(captured, tmp_path):
    cache = tmp_path / "calls.json"
    seen: list[tuple[int, int]] = []
    first = profile(captured, repeats=1, cache=cache, progress=lambda done, total, kind: seen.append((done, total)))
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert first.num_measured == len(seen)
    again = profile(captured, repeats=1, cache=cache)
    assert again.num_measured == 0
    assert again.sum_of_ops_s == pytest.approx(first.sum_of_ops_s)


def test_an_interrupted_profile_goes_on(captured, tmp_path):
    cache = tmp_path / "calls.json"

    def interrupt(done: int, total: int, kind: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(captured, repeats=1, cache=cache, progress=interrupt)
    done: list[int] = []
    result = profile(captured, repeats=1, cache=cache, progress=lambda d, total, kind: done.append(d))
    assert done[0] == 6
    assert result.num_measured == len(done)


def test_calls_of_other_machines_are_kept_apart(captured, tmp_path):
    cache = tmp_path / "calls.json"
    cache.write_text(json.dumps({"schema_version": 1, "machines": {"other": {"abc": [1.0, 2.0, 3.0]}}}))
    profile(captured, repeats=1, cache=cache)
    machines = json.loads(cache.read_text())["machines"]
    assert machines["other"] == {"abc": [1.0, 2.0, 3.0]}
    assert len(machines) == 2


def test_equal_calls_are_saved_while_measuring(captured, tmp_path, monkeypatch):
    monkeypatch.setattr(profile_module, "SAVE_EVERY_S", 0.0)
    cache = tmp_path / "calls.json"
    sizes: list[int] = []

    def look(done: int, total: int, kind: str) -> None:
        (calls,) = json.loads(cache.read_text())["machines"].values()
        sizes.append(len(calls))

    profile(captured, repeats=1, cache=cache, progress=look)
    assert sizes == list(range(1, len(sizes) + 1))


def test_a_step_that_does_not_fit_its_ops_is_reported(captured, monkeypatch, caplog):
    monkeypatch.setattr(profile_module, "USUAL_SCALE", (0.0, 1e-9))
    with caplog.at_level(logging.WARNING, "drlpp.capture.profile"):
        profile(captured, repeats=1)
    assert "times the sum of its ops" in caplog.text


def test_models_without_values():
    with pytest.raises(CaptureError, match="without values"):
        profile(capture(load_model("timm:test_vit?batch_size=1")))


def test_unknown_devices(captured):
    with pytest.raises(CaptureError, match="device 'warp' cannot be used"):
        profile(captured, device="warp")


def test_repeats(captured):
    with pytest.raises(InputError, match="repeats is 0"):
        profile(captured, repeats=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "not a cache"),
        ("{}", "not a cache"),
        ('{"schema_version": 1, "machines": {"m": {"k": [1]}}}', "not a cache"),
        ('{"schema_version": 9, "machines": {}}', "schema_version is 9"),
    ],
)
def test_bad_caches(captured, tmp_path, content, message):
    cache = tmp_path / "calls.json"
    cache.write_text(content)
    with pytest.raises(InputError, match=message):
        profile(captured, cache=cache)
