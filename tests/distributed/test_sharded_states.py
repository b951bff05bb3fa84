"""ZeRO-1: one rank per parameter keeps its optimizer states, and training stays that of one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.runtime import build, load_checkpoint, save_checkpoint
from drlpp.runtime.sharded_states import owners
from plan_cases import captured_model, make_plan, staged, train_job
from small_models import ALL
from worker_pool import WorkerPool

pytestmark = pytest.mark.slow


def zero1(plan: Plan) -> Plan:
    return dataclasses.replace(plan, training=dataclasses.replace(plan.training, zero1=True))


def test_owners_are_even_and_all_have_something() -> None:
    sizes = {"a": 40, "b": 30, "c": 20, "d": 10, "frozen": 0, "e": 7}
    found = owners({name: [(2, 5)] for name in sizes}, sizes)
    load = {d: sum(sizes[n] for (n, _), owner in found.items() if owner == d) for d in (2, 5)}
    assert load == {2: 57, 5: 50}
    both = owners({"a": [(0, 1)], "b": [(1, 2)]}, {"a": 1, "b": 1})
    assert both == {("a", (0, 1)): 0, ("b", (1, 2)): 1}


def tied_plan(**more: Any) -> Plan:
    graph = captured_model("tied").graph
    labels = staged(graph, {"layer_norm": 1, "linear_1": 2})
    return make_plan(graph, labels, [(0, 3), (1, 2), (3, 0, 1)], num_microbatches=4, **more)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_equals_one_process(pool: WorkerPool, optimizer: str) -> None:
    for shares in ((), ((1, 2), (3, 1), (1, 1, 2))):
        plan = zero1(tied_plan(optimizer=optimizer, shares=shares))
        verification = pool.run(train_job, "tied", plan, 3)[0].verification
        assert verification.passed, verification.describe()


BATCHES = 5


class RowNorms(torch.optim.Optimizer):
    """An optimizer of a user: it looks at whole matrices."""

    def __init__(self, groups: list[dict[str, list[nn.Parameter]]]) -> None:
        super().__init__(groups, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                state = self.state[p]
                state["mean"] = 0.5 * state.get("mean", torch.zeros_like(p)) + p.grad
                p.sub_(0.1 * state["mean"] / (1.0 + state["mean"].norm()))


def clipped(parameters: Any) -> None:
    with torch.no_grad():
        for p in parameters:
            p.clamp_(-0.3, 0.3)


def own_loop(plan: Plan, then: Plan, folder: Path) -> tuple[list[float], list[float], dict[str, torch.Tensor], int]:
    """A loop that freezes, clips, clamps, evaluates, and goes on under another plan after a restart."""
    torch.manual_seed(5)
    module, inputs = ALL["tied"]()
    captured = capture_module(module, inputs)
    values = {n: t.detach().clone() for n, t in module.state_dict().items()}
    losses, evaluated, states = [], [], []
    for half, now in enumerate((plan, then)):
        pipeline = build(captured, now, state_dict=values)
        optimizer = RowNorms([{"params": list(pipeline.parameters())}])
        if half:
            load_checkpoint(folder / f"step-{BATCHES // 2}", pipeline, optimizer)
        for step in range(BATCHES // 2 if half else 0, BATCHES if half else BATCHES // 2):
            for name, p in pipeline.named_parameters():
                p.requires_grad_(step != 1 or name != "b.weight")
            torch.manual_seed(step)
            batch = [torch.randint(16, (12, 5)), torch.randint(16, (12, 5))]
            losses.append(pipeline.step(batch).item())
            pipeline.clip_grad_norm(0.5)
            optimizer.step()
            optimizer.zero_grad()
            clipped(pipeline.parameters())
            loss = pipeline.evaluate(batch).loss
            evaluated.append(0.0 if loss is None else loss.item())
        save_checkpoint(folder, pipeline, optimizer)
        states.append(len(optimizer.state))
    return losses, evaluated, pipeline.state_dict(gather=True), states[0]


@pytest.mark.parametrize("order", [1, -1])
def test_any_loop_and_a_restart_with_or_without(pool: WorkerPool, tmp_path: Path, order: int) -> None:
    plans = [zero1(tied_plan()), tied_plan(seed=3)][::order]
    ranks = pool.run(own_loop, *plans, tmp_path)
    torch.manual_seed(5)
    module, _ = ALL["tied"]()
    optimizer = RowNorms([{"params": list(module.parameters())}])
    losses, evaluated = [], []
    for step in range(BATCHES):
        module.b.weight.requires_grad_(step != 1)
        torch.manual_seed(step)
        batch = [torch.randint(16, (12, 5)), torch.randint(16, (12, 5))]
        loss = module(*batch)
        loss.backward()
        losses.append(loss.item())
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        clipped(module.parameters())
        with torch.no_grad():
            evaluated.append(module(*batch).item())
    for theirs, theirs_evaluated, state, _ in ranks:
        assert theirs == pytest.approx(losses, rel=1e-5)
        assert theirs_evaluated == pytest.approx(evaluated, rel=1e-5)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    number = len(list(module.parameters()))
    assert (sum(states for *_, states in ranks) == number) == (order == 1)


def state_after_a_step(plan: Plan) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    pipeline = build(captured_model("tied"), plan)
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=0.5)
    pipeline.step()
    optimizer.step()
    return pipeline.state_dict(), pipeline.state_dict(gather=True)


def test_no_rank_shows_what_is_a_step_behind(pool: WorkerPool) -> None:
    ranks = pool.run(state_after_a_step, zero1(tied_plan()))
    whole = ranks[0][1]
    for mine, _ in ranks:
        assert all(torch.equal(value, whole[name]) for name, value in mine.items())
    assert set().union(*(mine for mine, _ in ranks)) == set(whole)


def two_pipelines(plan: Plan) -> str:
    captured = captured_model("tied")
    first = build(captured, plan)
    try:
        build(captured, zero1(plan))
    except InputError as error:
        return str(error)
    return str(first.steps_done)


def test_pipelines_that_change_a_parameter_on_different_ranks_are_refused(pool: WorkerPool) -> None:
    assert "with ZeRO-1, where another rank changes it" in pool.run(two_pipelines, tied_plan())[0]


def sparse_loop() -> list[float]:
    torch.manual_seed(0)
    table = nn.Embedding(16, 12, sparse=True)
    head = nn.Linear(12, 16)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = table, head

        def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self.head(self.table(ids)).flatten(0, 1), labels.flatten())

    batch = (torch.arange(15).view(3, 5), torch.arange(15).view(3, 5))
    captured = capture_module(Model(), batch)
    labels = staged(captured.graph, {})
    plan = make_plan(captured.graph, labels, [(0, 1, 2)], num_microbatches=3)
    losses = []
    values = {n: t.clone() for n, t in captured.call.module.state_dict().items()}
    for tried in (plan, zero1(plan)):
        pipeline = build(captured, tried, state_dict=values)
        optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=5.0)
        for _ in range(3):
            losses.append(pipeline.step().item())
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_sparse_gradients(pool: WorkerPool) -> None:
    losses = pool.run(sparse_loop)[0]
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-5)
    assert losses[0] != losses[2]
