"""Small tensors of a transfer share a message; nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch

from drlpp.runtime.transfers.channel import PACK_BYTES, Channel, TensorSpec, _Layout
from drlpp.runtime.transfers.planned import Slot, Transfer

CPU = torch.device("cpu")


def tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randint(0, 2, (3,)).bool(),
        torch.randn(5, 3).t(),
        torch.tensor(7),
        torch.randn(2, 3, dtype=torch.complex64),
        torch.randn(7).bfloat16(),
        torch.randn(0, 4),
        torch.randn(PACK_BYTES // 8, 3, dtype=torch.float64).t(),
        torch.randn(PACK_BYTES // 8, dtype=torch.complex64),
    ]


def layout(given: list[torch.Tensor]) -> _Layout:
    return _Layout([TensorSpec(tuple(t.shape), t.dtype) for t in given], CPU)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_what_is_packed_comes_out_again(count: int) -> None:
    given = tensors()[:count]
    plan = layout(given)
    sent, (buffers, received) = plan.pack(given), plan.buffers()
    assert [(t.shape, t.dtype) for t in sent] == [(t.shape, t.dtype) for t in buffers]
    for source, target in zip(sent, buffers, strict=True):
        target.copy_(source)
    for source, target in zip(given, received, strict=True):
        assert torch.equal(source, target)
        assert source.dtype == target.dtype
    assert plan.num_bytes == sum(t.numel() * t.element_size() for t in given)


def test_only_small_ones_share_a_message() -> None:
    given = tensors()
    assert len(layout(given).pack(given)) == 3
    assert len(layout(given[:6]).pack(given[:6])) == 1
    assert layout(given[:1]).pack(given[:1])[0].dtype == torch.bool


@pytest.mark.parametrize(("one_queue_per_pair", "order"), [(False, [1, 2, 0]), (True, [0, 1, 2])])
def test_receives_wait_for_nothing_that_is_needed_later(one_queue_per_pair: bool, order: list[int]) -> None:
    slots = [Slot(k, "value") for k in range(3)]
    transfers = [
        Transfer(order=k, tag=k, slot=slots[k], stage=0, microbatch=0, src=1, dst=0, produced_by=k, needed_by=needed)
        for k, needed in enumerate([9, 2, 4])
    ]
    specs = {slot: (TensorSpec((1,), torch.float32),) for slot in slots}
    channel = Channel(0, transfers, [specs] * 8, {0: 0, 1: 1}, CPU, one_queue_per_pair)
    (queue,) = channel._queues.values()
    assert [t.order for t in queue.transfers] == order
    assert queue.deadline == ([2, 4, 9] if not one_queue_per_pair else [2, 2, 4])
