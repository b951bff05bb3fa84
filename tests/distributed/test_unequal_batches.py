"""Batches of data loaders: what one process computes on the samples that are there, or a refusal on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.runtime import build
from plan_cases import captured_of, make_plan, staged
from small_models import ALL, Made
from worker_pool import WorkerPool

pytestmark = pytest.mark.slow

MICROBATCHES = 4
Part = dict[str, torch.Tensor]


def made(name: str) -> Made:
    torch.manual_seed(99)
    return MODELS[name]()


class Tokens(nn.Module):
    """A language model whose loss is the mean (or the sum) over the tokens that have a label."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30)
        self.reduction = reduction

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.body(self.table(ids)))
        return F.cross_entropy(self.head(h).flatten(0, 1), labels.flatten(), reduction=self.reduction)


def tokens(reduction: str) -> Made:
    return Tokens(reduction), (torch.randint(30, (2, 6)), torch.randint(30, (2, 6)))


MODELS: dict[str, Callable[[], Made]] = {
    **ALL,
    "token_mean": lambda: tokens("mean"),
    "token_sum": lambda: tokens("sum"),
}


def plan_of(name: str, replicas: bool = True, shares: Sequence[int] = ()) -> Plan:
    graph = captured_of(made, name).graph
    marks = {
        "chain": {"linear_1": 1, "linear_3": 2},
        "branches": {"conv2d_1": 1, "max_pool2d": 0, "add": 2},
        "u_shape": {"conv2d_1": 1, "cat": 2},
    }.get(name, {"tanh": 1, "linear_1": 2})
    devices = [(0,), (1, 2), (3,)] if replicas else [(0,), (1,), (0,)]
    return make_plan(
        graph,
        staged(graph, marks),
        devices,
        num_microbatches=MICROBATCHES,
        recompute=(1,),
        split=0.5,
        shares=[(), shares, ()],
    )


def draws(name: str, sizes: list[tuple[int, ...]]) -> list[Part]:
    """Micro-batches; a size is (samples,) or (samples, length)."""
    captured = captured_of(made, name)
    generator = torch.Generator().manual_seed(5)
    parts = []
    for size in sizes:
        part = {}
        for key, t in captured.example_inputs.items():
            shape = (*size, *t.shape[len(size) :]) if t.dim() >= len(size) else size[: t.dim()]
            drawn = torch.randn(shape, generator=generator)
            part[key] = drawn if t.is_floating_point() else torch.randint(int(t.max()) + 1, shape, generator=generator)
        parts.append(part)
    return parts


def steps(name: str, plan: Plan, batches: list[Any], options: dict[str, Any]) -> tuple[list[float], Part, Part]:
    """Losses, gradients summed over the batches, and the state of this rank."""
    pipeline = build(captured_of(made, name), plan, state_dict=made(name)[0].state_dict(), timeout_s=60)
    losses = [pipeline.step(batch, **options).item() for batch in batches]
    gradients = {n: p.grad for n, p in pipeline.named_parameters() if p.grad is not None}
    return losses, gradients, pipeline.state_dict()


def plain(name: str, batches: list[list[Part]], fractions: list[list[float]]) -> tuple[list[float], Part, Part]:
    """What one process computes, micro-batch by micro-batch."""
    module, _ = made(name)
    losses = []
    for parts, weights in zip(batches, fractions, strict=True):
        total = 0.0
        for part, weight in zip(parts, weights, strict=True):
            if weight:
                loss = module(**part) if name.startswith("token") else module(*part.values())
                (loss * weight).backward()
                total += loss.item() * weight
        losses.append(total)
    return losses, {n: p.grad for n, p in module.named_parameters() if p.grad is not None}, dict(module.state_dict())


def check(ranks: list[tuple[list[float], Part, Part]], wanted: tuple[list[float], Part, Part]) -> None:
    for losses, gradients, state in ranks:
        assert losses == pytest.approx(wanted[0], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted[1][name], rtol=1e-4, atol=1e-6)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, wanted[2][name], rtol=1e-5, atol=1e-6)
    assert set().union(*(g for _, g, _ in ranks)) == set(wanted[1])


def joined(parts: list[Part]) -> Part:
    return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}


@pytest.mark.parametrize("name", ["chain", "branches", "u_shape"])
@pytest.mark.parametrize("sizes", [[(4,), (4,), (4,), (2,)], [(4,), (4,)], [(3,)]])
def test_the_last_batch_is_smaller(pool: WorkerPool, name: str, sizes: list[tuple[int, ...]]) -> None:
    """Full, smaller and full again; batch norm counts each micro-batch once, also where replicas share them."""
    size = made(name)[1][0].shape[0]
    sizes = [(min(n, size),) for (n,) in sizes]
    if sizes == [(3,)] and size == 3:
        sizes = [(2,)]
    full, small = draws(name, [(size,)] * MICROBATCHES), draws(name, sizes)
    ranks = pool.run(steps, name, plan_of(name), [joined(full), joined(small), joined(full)], {})
    total = sum(n for (n,) in sizes)
    equal = [1 / MICROBATCHES] * MICROBATCHES
    check(ranks, plain(name, [full, small, full], [equal, [n / total for (n,) in sizes], equal]))


def test_a_list_of_unequal_micro_batches_is_weighted_by_samples(pool: WorkerPool) -> None:
    parts = draws("chain", [(4,), (1,), (3,)])
    ranks = pool.run(steps, "chain", plan_of("chain"), [parts, [tuple(p.values()) for p in parts]], {})
    check(ranks, plain("chain", [parts, parts], [[0.5, 0.125, 0.375]] * 2))


@pytest.mark.parametrize("name", ["branches", "u_shape"])
@pytest.mark.parametrize("shares", [(3, 1), (1, 2)])
def test_replicas_with_unequal_shares(pool: WorkerPool, name: str, shares: tuple[int, ...]) -> None:
    """The mean is over the samples, whoever computes them: in full steps, and where one replica gets nothing."""
    size = made(name)[1][0].shape[0]
    full, small = draws(name, [(size,)] * MICROBATCHES), draws(name, [(size - 1,)])
    ranks = pool.run(steps, name, plan_of(name, shares=shares), [joined(full), joined(small), joined(full)], {})
    equal = [1 / MICROBATCHES] * MICROBATCHES
    check(ranks, plain(name, [full, small, full], [equal, [1.0], equal]))


def test_the_mean_over_tokens_with_unequal_shares(pool: WorkerPool) -> None:
    parts = labelled([(2, 6), (2, 9), (1, 4), (2, 6)], empty=1)
    counts = [count_labels(p) for p in parts]
    plan = plan_of("token_mean", shares=(1, 3))
    ranks = pool.run(steps, "token_mean", plan, [parts], {"weights": count_labels})
    check(ranks, plain("token_mean", [parts], [[c / sum(counts) for c in counts]]))


def labelled(sizes: list[tuple[int, ...]], empty: int | None = None) -> list[Part]:
    """Padded micro-batches: some labels are ignored; in one of them, all."""
    parts = draws("token_mean", sizes)
    for m, part in enumerate(parts):
        part["labels"][:, m % 3 + 1 :: 2] = -100
        if m == empty:
            part["labels"][:] = -100
    return parts


def count_labels(part: Part) -> float:
    return float((part["labels"] != -100).sum())


@pytest.mark.parametrize("sizes", [[(2, 6)] * 4, [(2, 6), (2, 9), (1, 4), (2, 6)]])
def test_the_mean_over_tokens(pool: WorkerPool, sizes: list[tuple[int, ...]]) -> None:
    """By weights, numbers or a function of the micro-batch; a micro-batch without labels gives no NaN."""
    parts = labelled(sizes, empty=1)
    counts = [count_labels(p) for p in parts]
    assert counts[1] == 0
    wanted = plain("token_mean", [parts], [[c / sum(counts) for c in counts]])
    for weights in (counts, count_labels):
        ranks = pool.run(steps, "token_mean", plan_of("token_mean"), [parts], {"weights": weights})
        check(ranks, wanted)
    ranks = pool.run(steps, "token_sum", plan_of("token_sum"), [parts], {"count": sum(counts)})
    check(ranks, wanted)


def refusals(name: str, plan: Plan, batches: list[tuple[Any, dict[str, Any]]]) -> list[str]:
    """Per batch, the error of the step, on each rank; the step after all of them works."""
    import torch.distributed as dist

    pipeline = build(captured_of(made, name), plan, state_dict=made(name)[0].state_dict(), timeout_s=30)
    errors = []
    for batch, options in batches:
        chosen = batch[dist.get_rank()] if isinstance(batch, dict) and 0 in batch else batch
        try:
            pipeline.step(chosen, **{k: v[dist.get_rank()] if isinstance(v, dict) else v for k, v in options.items()})
            errors.append("")
        except InputError as error:
            errors.append(str(error))
    assert all(p.grad is None for p in pipeline.parameters())
    pipeline.step(joined(draws(name, [(4,)] * MICROBATCHES)))
    return errors


def test_what_one_rank_cannot_run_is_refused_on_all(pool: WorkerPool) -> None:
    parts = draws("chain", [(4,)] * MICROBATCHES)
    whole = joined(parts)
    x, t = whole.keys()
    short = {**whole, t: whole[t][:4]}
    cases: list[tuple[Any, dict[str, Any]]] = [
        (short, {}),
        ({0: {x: whole[x]}, 1: whole, 2: whole, 3: short}, {}),
        ({0: {x: whole[x]}, 1: {}, 2: {}, 3: {x: whole[x]}}, {}),
        ({0: whole, 1: whole, 2: whole, 3: None}, {}),
        ({0: parts, 1: parts, 2: parts, 3: parts[:3]}, {}),
        ({0: parts, 1: parts, 2: parts, 3: [*parts[:3], draws("chain", [(2,)])[0]]}, {}),
        (parts, {"weights": {0: [1, 2, 3, 4], 1: None, 2: None, 3: [1, 1, 1, 1]}}),
        (parts, {"weights": [1, 2, 3]}),
    ]
    ranks = pool.run(refusals, "chain", plan_of("chain"), cases)
    messages = [
        "4 samples, input",
        "4 samples, input",
        "is missing, which this rank reads",
        "some ranks were given a batch and others none",
        r"the ranks were given [3, 4] micro-batches",
        "on one rank and",
        "the ranks were given different weights",
        "3 weights were given for 4 micro-batches",
    ]
    for errors in ranks:
        for error, message in zip(errors, messages, strict=True):
            assert message in error, (error, message)


def other_operators() -> Made:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            for _ in range(x.shape[0]):
                h = torch.tanh(self.b(h))
            return h.square().mean()

    return Loops(), (torch.randn(4, 3),)


MODELS["other_operators"] = other_operators


def test_a_shape_that_runs_other_operators_is_refused(pool: WorkerPool) -> None:
    graph = captured_of(made, "other_operators").graph
    plan = make_plan(graph, staged(graph, {"linear_2": 1}), [(0,), (1,)], num_microbatches=4)
    for errors in pool.run(refusals, "other_operators", plan, [(torch.randn(7, 3), {})]):
        assert "the model runs other operators than those that the plan places" in errors[0]
        assert "drop_last" in errors[0]
