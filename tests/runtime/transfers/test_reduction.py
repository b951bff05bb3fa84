"""All-reduces start as early as they may; statistics of batch norm that are combined out of order are as in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from drlpp.runtime.observe.recording import Recorder
from drlpp.runtime.transfers import reduction
from drlpp.runtime.transfers.reduction import CombinedBuffers, GradientReducer, SharedParameter


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_combined_in_any_order(order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(8, 4) + m for m in range(3)]
    expected, module = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    for start in (expected, module):
        start.running_mean = torch.arange(4.0)
    for x in inputs:
        expected(x)
    combined = CombinedBuffers(
        module, {"running_mean": 0.9, "running_var": 0.9, "num_batches_tracked": 1.0}, 3, group=None
    )
    for m in order:
        own = dict(module.named_buffers())
        zeros = combined.zeros()
        for name, zero in zeros.items():
            setattr(module, name, zero)
        module(inputs[m])
        for name, tensor in own.items():
            setattr(module, name, tensor)
        combined.add(m, zeros)
    combined.finish()
    assert module.num_batches_tracked == 3
    assert torch.allclose(module.running_mean, expected.running_mean, rtol=1e-6)
    assert torch.allclose(module.running_var, expected.running_var, rtol=1e-6)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    """Of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    world = dist.group.WORLD
    assert world is not None
    yield world
    dist.destroy_process_group()


class Layers(nn.Module):
    """Notes which gradients are with the reducer when the backward pass reaches the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.taken: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        hidden.register_hook(lambda _: self.taken.append(self.last.weight.grad is None))
        return self.last(hidden).sum()


def shared(module: nn.Module, last_action: int, at_once: bool = True) -> list[SharedParameter]:
    return [SharedParameter("p", p, (0, 1), last_action, at_once) for p in reversed(list(module.parameters()))]


@pytest.mark.parametrize(("at_once", "taken"), [(True, [False, True]), (False, [False, False])])
def test_sums_start_within_the_last_backward_pass(
    group: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, at_once: bool, taken: list[bool]
) -> None:
    monkeypatch.setattr(reduction, "BUCKET_BYTES", 64)
    torch.manual_seed(0)
    module, x = Layers(), torch.randn(2, 4)
    reducer = GradientReducer(shared(module, 1, at_once), {(0, 1): group})
    reducer.begin()
    for action in range(2):
        module(x).backward()
        reducer.after_action(action)
    reducer.finish()
    assert module.taken == taken
    found = [p.grad for p in module.parameters()]
    expected = torch.autograd.grad(2 * module(x), list(module.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_steps_add_up_and_parameters_without_a_gradient_take_part(group: dist.ProcessGroup) -> None:
    module, x = Layers(), torch.ones(2, 4)
    unused = SharedParameter("unused", nn.Parameter(torch.ones(3)), (0, 1), -1, False)
    reducer = GradientReducer([unused, *shared(module, 0)], {(0, 1): group})
    recorder = Recorder(0)
    reducer.observer = recorder
    for _ in range(2):
        reducer.begin()
        module(x).backward()
        reducer.after_action(0)
        reducer.finish()
    assert unused.parameter.grad is not None
    assert not unused.parameter.grad.any()
    expected = torch.autograd.grad(2 * module(x), list(module.parameters()))
    for p, g in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
    spans = recorder.record().events
    assert [span.bytes for span in spans] == [4 * (3 + 2 * 20)] * 2
    assert all(span.start_s <= span.end_s for span in spans)


def test_buckets_fill_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "BUCKET_BYTES", 80)
    a, b = (0, 1), (1, 2)
    sets = [a, b, a, a, b]
    parameters = [
        SharedParameter("p", nn.Parameter(torch.zeros(10)), devices, k, True) for k, devices in enumerate(sets)
    ]
    buckets = [[s.last_action for s in bucket.parameters] for bucket in reduction._buckets(parameters)]
    assert buckets == [[0, 2], [3], [1, 4]]
