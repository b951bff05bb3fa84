"""Micro-batches that are drawn, and batches that are cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from drlpp.capture.module_call import ModuleCall, entries_of
from drlpp.capture.python_state import NumbersKept
from drlpp.errors import InputError
from drlpp.runtime.stage.batches import BatchLayout, draw, fractions

EXAMPLE = {"x": torch.randn(4, 1000) * 3 + 2, "ids": torch.randint(5, 9, (4, 50)), "one": torch.ones(4)}


def layout(**example: Any) -> BatchLayout:
    """Of a module that takes the given keywords; the plan runs two micro-batches."""
    leaves, names = [], []
    for name, value in (example or EXAMPLE).items():
        for path, leaf in torch.utils._pytree.tree_flatten_with_path(value)[0]:
            names.append("_".join([name, *(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)]))
            leaves.append(leaf)
    entries = entries_of((), example or EXAMPLE, names)
    call = ModuleCall(module=nn.Identity(), loss_fn=None, entries=entries, modes={}, numbers=NumbersKept(), whole={})
    return BatchLayout(call, 2)


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
    assert EXAMPLE["x"].min() <= drawn["x"].min()
    assert drawn["x"].max() <= EXAMPLE["x"].max()


def test_integers_are_drawn_sample_by_sample() -> None:
    """Columns with ranges of their own (tables of different sizes) keep them."""
    table = torch.stack([torch.arange(6) % 3 + 100 * k for k in (2, 0, 1)], 1)
    drawn = draw({"ids": table}, 0, 1, 0)["ids"]
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in table.tolist()}
    assert not torch.equal(drawn, table)


@pytest.mark.parametrize(
    "kept",
    [
        torch.ones(3, 3, dtype=torch.bool).tril(),
        torch.full((3,), 7),
        torch.tensor([0.0, float("-inf")]),
        torch.tensor(3.5),
        torch.tensor([1 + 2j, 3j]),
        torch.tensor([0, 3, 5, 9]),
        torch.arange(6).expand(4, 6),
    ],
)
def test_structure_is_kept(kept: torch.Tensor) -> None:
    drawn = draw({"a": kept}, 0, 0, 0)["a"]
    assert torch.equal(drawn, kept)
    assert drawn.data_ptr() != kept.data_ptr()


def test_inputs_that_do_not_hold_samples_are_kept() -> None:
    edges = torch.tensor([[0, 5, 2], [3, 1, 4]])
    drawn = draw({"x": torch.randn(4, 3), "y": torch.randn(4), "edges": edges}, 0, 0, 0)
    assert torch.equal(drawn["edges"], edges)


BATCH = {"x": torch.randn(8, 1000), "ids": torch.randint(9, (8, 50)), "one": torch.ones(8)}


def test_a_batch_is_cut_by_samples() -> None:
    cut = layout().cut(BATCH)
    assert cut.samples == (4, 4)
    assert torch.equal(torch.cat([p["x"] for p in cut.parts]), BATCH["x"])
    assert layout().cut(list(cut.parts)).parts == cut.parts


@pytest.mark.parametrize(("samples", "sizes"), [(7, (4, 3)), (5, (4, 1)), (4, (4,)), (3, (3,))])
def test_the_last_batch_is_smaller(samples: int, sizes: tuple[int, ...]) -> None:
    cut = layout().cut({n: t[:samples] for n, t in BATCH.items()})
    assert cut.samples == sizes
    assert [p["ids"].shape[0] for p in cut.parts] == list(sizes)


def test_habits_of_data_loaders() -> None:
    x, ids, one = BATCH.values()
    for batch in ((x, ids, one), [x, ids, one], {"x": x, "ids": ids, "one": one}):
        cut = layout().cut(batch)
        assert [p["ids"].shape[0] for p in cut.parts] == [4, 4]
    single = layout(x=torch.randn(4, 3))
    assert len(single.cut(torch.randn(8, 3)).parts) == 2
    assert len(single.cut([torch.randn(8, 3)]).parts) == 2
    assert single.cut([torch.randn(4, 3), torch.randn(2, 3)]).samples == (4, 2)


def test_nested_inputs() -> None:
    nested = layout(pair=(torch.randn(4, 3), torch.randn(4)), more={"y": torch.randn(4), "n": 3})
    assert set(nested.example) == {"pair_0", "pair_1", "more_y"}
    batch = {"pair": (torch.randn(6, 3), torch.randn(6)), "more": {"y": torch.randn(6), "n": 3}}
    assert nested.cut(batch).samples == (4, 2)
    only = layout(batch={"a": torch.randn(4), "b": torch.randn(4)})
    assert only.cut({"a": torch.randn(8), "b": torch.randn(8)}).samples == (4, 4)


def test_inputs_of_a_whole_micro_batch_are_shared_or_listed() -> None:
    masked = layout(x=torch.randn(4, 3), y=torch.randn(4), mask=torch.ones(3, 3))
    mask = torch.randn(3, 3)
    cut = masked.cut({"x": torch.randn(7, 3), "y": torch.randn(7), "mask": mask})
    assert all(p["mask"] is mask for p in cut.parts)
    both = masked.cut({"x": torch.randn(8, 3), "y": torch.randn(8), "mask": torch.randn(6, 3)})
    assert [p["mask"].shape for p in both.parts] == [(3, 3), (3, 3)]
    assert masked.cut({"mask": mask}).samples == (4, 4)


def test_a_rank_may_be_given_what_it_reads_only() -> None:
    assert [set(part) for part in layout().cut({"x": BATCH["x"]}).parts] == [{"x"}, {"x"}]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([EXAMPLE] * 3, "3 micro-batches were given: the plan runs 1 to 2 per step"),
        ([], "0 micro-batches were given"),
        ({"x": torch.randn(9, 1000)}, r"the batch has 9 samples: the plan runs 1 to 2 micro-batches of 4 per step, at"),
        ({"x": torch.randn(0, 1000)}, "the batch has no samples"),
        ([EXAMPLE, {**EXAMPLE, "y": torch.ones(1)}], "micro-batch 1 has input 'y', which the model does not have"),
        ({**BATCH, "one": torch.ones(4)}, "input 'one' of the batch has 4 samples, input 'x' has 8: they must have"),
        ([EXAMPLE, {**EXAMPLE, "one": torch.ones(3)}], "input 'one' of micro-batch 1 has 3 samples"),
        ({**BATCH, "ids": torch.ones(8, 50)}, "'ids' of the batch is torch.float32"),
        ({**BATCH, "ids": torch.ones(8, dtype=torch.int64)}, r"the number of dimensions and the type must be the same"),
        ({**BATCH, "ids": 3}, "input 'ids' of the batch is a int: it must be a tensor"),
        ((1, 2, 3, 4), "the batch has 4 inputs: the model has 3"),
        ("text", "the batch is a str: give a dict of tensors"),
        ({**BATCH, "ids": [torch.ones(8)]}, "input 'ids' of the batch is nested otherwise than in the example"),
    ],
)
def test_wrong_batches(batch: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout().cut(batch)


def test_what_cannot_be_cut() -> None:
    masked = layout(x=torch.randn(4, 3), y=torch.randn(4), mask=torch.ones(3, 3), n={"n": 2})
    whole = {"x": torch.randn(8, 3), "y": torch.randn(8)}
    with pytest.raises(InputError, match=r"'mask' of the batch has shape \[5, 3\]: it does not hold one entry per"):
        masked.cut({**whole, "mask": torch.ones(5, 3)})
    with pytest.raises(InputError, match="input 'n_n' of the batch is 3: the model was captured with 2"):
        masked.cut({**whole, "n": {"n": 3}})


def test_fractions() -> None:
    assert fractions((4, 4, 4), None, None) == (1 / 3, 1 / 3, 1 / 3)
    assert fractions((4, 1), None, None) == (0.8, 0.2)
    assert fractions((4, 4), (0, 3), None) == (0.0, 1.0)
    assert fractions((4, 4), None, 10) == (0.1, 0.1)


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        ((1, 1), 3.0, "weights and count were given"),
        (None, 0.0, "count is 0.0: it must be positive"),
        ((1,), None, "1 weights were given for 2 micro-batches"),
        ((0, 0), None, "one must be positive"),
        ((1, float("nan")), None, "they must be finite"),
        ((1, -1), None, "not negative"),
    ],
)
def test_wrong_weights(weights: tuple[float, ...] | None, count: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fractions((4, 4), weights, count)
