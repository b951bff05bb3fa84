"""State of modules outside of parameters and buffers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drlpp.capture.python_state import (
    NumbersKept,
    RandomStates,
    StateKept,
    changed_numbers,
    numbers,
    set_number,
    tensors_in_attributes,
)


class Settings:
    def __init__(self) -> None:
        self.temperature = 1.0


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.calls, self.history, self.table = 0, [1], {"a": 1}
        self.settings = Settings()
        self.generator: Any = random.Random(1)
        self.register_buffer("mean", torch.zeros(2))

    def change(self) -> None:
        self.calls += 1
        self.history.append(2)
        self.table["b"] = 2
        self.settings.temperature = 0.5
        self.mean = torch.ones(2)
        self.inner.bias = None
        self.new = 3


def test_everything_is_put_back() -> None:
    module = Stateful()
    mean, bias = module.mean, module.inner.bias
    state = StateKept(module)
    module.change()
    torch.rand(1)
    drawn = random.random()
    state.restore()
    assert (module.calls, module.history, module.table, module.settings.temperature) == (0, [1], {"a": 1}, 1.0)
    assert module.mean is mean
    assert module.inner.bias is bias
    assert not hasattr(module, "new")
    assert random.random() == drawn


def test_numbers_are_found_in_attributes_containers_and_objects() -> None:
    module = nn.Sequential(Stateful())
    before = numbers(module)
    module[0].change()  # type: ignore[operator]
    module[0].generator.random()  # type: ignore[union-attr]
    changed = changed_numbers(before, numbers(module))
    assert set(changed) == {"0.calls", "0.history[1]", "0.table['b']", "0.settings.temperature", "0.generator", "0.new"}
    place, value = numbers(module)["0.settings.temperature"]
    set_number(place, 7.0)
    assert value == 0.5
    assert module[0].settings.temperature == 7.0  # type: ignore[union-attr]


def test_attributes_that_changed_are_told_with_both_values() -> None:
    module = nn.Sequential(Stateful(), nn.Dropout(0.5))
    kept = NumbersKept(module)
    module.eval()
    assert kept.changed(counters=False) == kept.changed(counters=True) == ""
    module[0].calls += 1  # type: ignore[operator]
    assert kept.changed(counters=False) == ""
    assert kept.changed(counters=True) == f"attribute '0.calls' was 0 at the capture and is {module[0].calls} now"
    module[1].p = 0.25
    assert kept.changed(counters=False) == "attribute '1.p' was 0.5 at the capture and is 0.25 now"
    del module[1].p
    assert kept.changed(counters=False) == "attribute '1.p' was 0.5 at the capture and is None now"


@pytest.mark.parametrize("generator", [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0)])
def test_generators_are_state(generator: Any) -> None:
    module = nn.Module()
    module.generator = generator
    before = numbers(module)
    assert changed_numbers(before, numbers(module)) == []
    torch.rand(1, generator=generator) if isinstance(generator, torch.Generator) else generator.normal()
    assert changed_numbers(before, numbers(module)) == ["generator"]


def test_who_drew_is_told() -> None:
    before = RandomStates()
    torch.rand(1)
    assert before.drawn_since() == ""
    np.random.rand()
    assert before.drawn_since() == "numpy.random"
    random.random()
    assert before.drawn_since() == "Python's random"
    before.restore()
    assert before.drawn_since() == ""


def test_tensors_are_found_in_attributes() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module[0].kept, module[0].table = torch.ones(1), {"a": torch.ones(2), "b": 3}
    found = tensors_in_attributes(module)
    assert {k: len(v) for k, v in found.items()} == {"0.kept": 1, "0.table": 2}
