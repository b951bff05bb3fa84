"""Parts of a tensor and the whole are inverse, with sections too."""

from __future__ import annotations

import pytest
import torch

from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.runtime.stage.moves import Members, Parted, joined, part


@pytest.mark.parametrize("cut", [Cut(0), Cut(1), Cut(1, (4,)), Cut(1, (8, 2, 2)), Cut(1, (12,))])
def test_parts_make_the_whole(cut: Cut) -> None:
    whole = torch.arange(4.0 * 24).view(4, 24)
    parts = [part(whole, cut, 2, place) for place in range(2)]
    assert {tuple(p.shape) for p in parts} == {(2, 24) if cut.dim == 0 else (4, 12)}
    assert torch.equal(joined(parts, cut), whole)


def test_sections_are_cut_each_for_itself() -> None:
    queries_keys_values = torch.arange(12)
    assert part(queries_keys_values, Cut(0, (4,)), 2, 1).tolist() == [2, 3, 6, 7, 10, 11]
    assert part(queries_keys_values, Cut(0, (8, 2, 2)), 2, 0).tolist() == [0, 1, 2, 3, 8, 10]


def test_the_gradient_of_a_part_is_zero_elsewhere() -> None:
    whole = torch.ones(4, requires_grad=True)
    Parted(Members(None, 2, 1), Cut(0))(whole).sum().backward()
    assert whole.grad is not None
    assert whole.grad.tolist() == [0, 0, 1, 1]


def test_nothing_is_moved_to_a_partial_sum() -> None:
    with pytest.raises(RuntimeError, match="cannot be moved to"):
        Members(None, 2, 0).move(torch.ones(4), None, PARTIAL)
