"""Micro-batches that are drawn, and batches that are cut."""

from __future__ import annotations

import pytest
import torch

from drlpp.errors import InputError
from drlpp.runtime.stage.batches import draw, split_batch

EXAMPLE = {"x": torch.randn(4, 1000) * 3 + 2, "ids": torch.randint(5, 9, (4, 50)), "one": torch.ones(4)}


def test_drawn_batches_are_reproducible_and_differ() -> None:
    first, again = draw(EXAMPLE, 1, 2, 3), draw(EXAMPLE, 1, 2, 3)
    assert all(torch.equal(first[n], again[n]) for n in EXAMPLE)
    for other in (draw(EXAMPLE, 0, 2, 3), draw(EXAMPLE, 1, 0, 3), draw(EXAMPLE, 1, 2, 0)):
        assert not torch.equal(first["x"], other["x"])
        assert not torch.equal(first["ids"], other["ids"])
    assert torch.equal(draw({"x": EXAMPLE["x"]}, 1, 2, 3)["x"], first["x"])


def test_drawn_batches_look_like_the_example() -> None:
    drawn = draw(EXAMPLE, 1, 2, 3)
    assert drawn["x"].dtype == torch.float32
    assert drawn["x"].shape == (4, 1000)
    assert drawn["x"].mean().item() == pytest.approx(EXAMPLE["x"].mean().item(), abs=0.2)
    assert drawn["x"].std().item() == pytest.approx(EXAMPLE["x"].std().item(), rel=0.1)
    assert set(drawn["ids"].unique().tolist()) <= set(EXAMPLE["ids"].unique().tolist())


@pytest.mark.parametrize(
    "kept",
    [
        torch.ones(3, 3, dtype=torch.bool).tril(),
        torch.full((3,), 7),
        torch.tensor([0.0, float("-inf")]),
        torch.tensor(3.5),
        torch.tensor([1 + 2j, 3j]),
    ],
)
def test_structure_is_kept(kept: torch.Tensor) -> None:
    drawn = draw({"a": kept}, 0, 0, 0)["a"]
    assert torch.equal(drawn, kept)
    assert drawn.data_ptr() != kept.data_ptr()


def test_split() -> None:
    batch = {"x": torch.randn(8, 1000), "ids": torch.randint(9, (8, 50)), "one": torch.ones(4)}
    parts = split_batch(batch, EXAMPLE, 2, EXAMPLE)
    assert torch.equal(torch.cat([p["x"] for p in parts]), batch["x"])
    assert all(torch.equal(p["one"], batch["one"]) for p in parts)
    assert split_batch(parts, EXAMPLE, 2, EXAMPLE) == parts


def test_a_rank_may_be_given_what_it_reads_only() -> None:
    batch = {"x": torch.randn(8, 1000)}
    assert [set(part) for part in split_batch(batch, EXAMPLE, 2, ["x"])] == [{"x"}, {"x"}]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([EXAMPLE], "1 micro-batches were given: the plan runs 2 per step"),
        ({"x": EXAMPLE["x"]}, "'ids' is missing, which this rank reads"),
        ([EXAMPLE, {**EXAMPLE, "y": torch.ones(1)}], "has input 'y', which the model does not have"),
        ({**EXAMPLE, "x": torch.randn(6, 1000)}, r"shape \[6, 1000\]: it must hold 2 micro-batches of shape \[4, 1000"),
        ([EXAMPLE, {**EXAMPLE, "one": torch.ones(3)}], r"'one' of micro-batch 1 is torch.float32 \[3\]"),
        ({**EXAMPLE, "ids": torch.ones(8, 50)}, "'ids' of the batch is torch.float32"),
    ],
)
def test_wrong_batches(batch: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_batch(batch, EXAMPLE, 2, EXAMPLE)  # type: ignore[arg-type]
