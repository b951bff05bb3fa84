"""Between the steps: outputs, loss and metrics in eval mode, and nothing changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import InputError
from drlpp.plan import Plan
from drlpp.runtime import build
from plan_cases import captured_of, make_plan, random_plan, staged
from worker_pool import WorkerPool

pytestmark = pytest.mark.slow


class Classifier(nn.Module):
    """Dropout, batch norm, a branch that is used in eval mode only, and a parameter that only eval mode reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)
        self.calibration = nn.Parameter(torch.full((5,), 1.5))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        h = torch.relu(self.body(x))
        logits = self.head(h)
        if not self.training:
            logits = logits * self.calibration + h.mean(1, keepdim=True)
        return {"logits": logits, "features": (h, logits.argmax(-1)), "name": "classifier"}


class Labelled(nn.Module):
    """As models of transformers: the loss is in the output where labels are given."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Classifier()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        logits = self.model(x)["logits"]
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def loss_fn(output: dict[str, Any], target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output["logits"], target)


def made(labelled: bool) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(3)
    x, y = torch.randn(4, 6), torch.randint(5, (4,))
    if labelled:
        return Labelled(), {"x": x, "labels": y}, None
    return Classifier(), (x, y), loss_fn


def plans(labelled: bool) -> list[Plan]:
    graph = captured_of(made, labelled).graph
    marks = {"linear_1": 1, "linear_2": 2}
    rows = [[(0,), (1, 2), (3,)], [(2,), (0,), (2, 1)], [(0, 1, 2, 3)] * 3]
    by_hand = [
        make_plan(graph, staged(graph, marks), devices, num_microbatches=4, recompute=(0,), split=0.5)
        for devices in rows
    ]
    drawn = [random_plan(graph, seed, num_microbatches=4) for seed in ((0,) if labelled else (1, 2))]
    shared = make_plan(
        graph, staged(graph, marks), [(1, 0), (2,), (3, 1, 0)], num_microbatches=4, shares=[(3, 1), (), (1, 1, 2)]
    )
    return [*by_hand, *drawn, shared]


def batch_of(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, 6, generator=generator), torch.randint(5, (samples,), generator=generator)


def evaluated(labelled: bool, plan: Plan) -> list[Any]:
    """Evaluations of several kinds between two steps, each after a check that nothing changed."""
    pipeline = build(captured_of(made, labelled), plan, timeout_s=60)
    target = "labels" if labelled else "target"
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=0.1)
    x, y = batch_of(16)
    pipeline.step({"x": x, target: y})
    optimizer.step()
    optimizer.zero_grad()
    state = copy.deepcopy(pipeline.tensors())
    pipeline.eval()
    results: list[Any] = []
    for samples in (16, 13, 4, 3):
        x, y = batch_of(samples)
        results.append(pipeline(x)["logits"])
        results.append(pipeline(x=x)["logits"])
        results.append(pipeline.step({"x": x, target: y}))
        with torch.no_grad():
            results.append(pipeline.step([{"x": x[:3], target: y[:3]}]))
        found = pipeline.evaluate({"x": x, target: y}, to=[1])
        assert (found.outputs is None) == (dist.get_rank() != 1)
        results.append(found.loss)
        if found.outputs is not None:
            assert torch.equal(found.outputs["logits"], results[-5])
    assert pipeline.steps_done == 1
    assert all(p.grad is None for p in pipeline.parameters())
    assert all(torch.equal(t, state[n]) for n, t in pipeline.tensors().items())
    whole = pipeline.state_dict(gather=True)
    pipeline.train()
    x, y = batch_of(16)
    results.append(pipeline.step({"x": x, target: y}))
    return [*results, whole]


@pytest.mark.parametrize("labelled", [False, True])
def test_outputs_and_loss_under_any_plan(pool: WorkerPool, labelled: bool) -> None:
    for plan in plans(labelled):
        ranks = pool.run(evaluated, labelled, plan)
        module = made(labelled)[0]
        module.load_state_dict(ranks[0][-1], strict=True)
        module.eval()
        wanted = []
        for samples in (16, 13, 4, 3):
            x, y = batch_of(samples)
            with torch.no_grad():
                logits = module(x)["logits"]
                losses = [nn.functional.cross_entropy(module(x[:n])["logits"], y[:n]) for n in (samples, 3)]
            wanted += [logits, logits, *losses, losses[0]]
        for results in ranks:
            for got, want in zip(results[:-2], wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
            assert results[-2] == ranks[0][-2]


def whole_output(plan: Plan) -> Any:
    module, inputs, loss = made(False)
    pipeline = build(capture_module(module, inputs, loss), plan, timeout_s=60).eval()
    return pipeline(batch_of(9)[0]), pipeline()


def test_the_output_has_the_form_that_the_module_gives_it(pool: WorkerPool) -> None:
    module = made(False)[0].eval()
    wanted = module(batch_of(9)[0])
    for got, drawn in pool.run(whole_output, plans(False)[0]):
        assert set(got) == set(wanted)
        assert got["name"] == "classifier"
        assert isinstance(got["features"], tuple)
        torch.testing.assert_close(got["features"][0], wanted["features"][0].detach())
        assert torch.equal(got["features"][1], wanted["features"][1])
        assert drawn["logits"].shape == (16, 5)


def wrong_calls(plan: Plan) -> list[str]:
    module, inputs, loss = made(False)
    pipeline = build(capture_module(module, inputs, loss), plan, timeout_s=30)
    x, y = batch_of(16)
    calls = [
        lambda: pipeline(x),
        lambda: torch.no_grad()(pipeline.step)({"x": x, "target": y}),
        lambda: torch.inference_mode()(pipeline.step)({"x": x, "target": y}),
        lambda: pipeline.train(dist.get_rank() != 2).step({"x": x, "target": y}),
        lambda: pipeline.eval().step({"x": x}),
        lambda: pipeline.eval()(x=x if dist.get_rank() else x[:, :3]),
        lambda: pipeline.eval()({"target": y}),
        lambda: pipeline.eval().evaluate({"target": y} if dist.get_rank() == 3 else {"x": x, "target": y}),
    ]
    errors = []
    for call in calls:
        try:
            errors.append(str(call()))
        except InputError as error:
            errors.append(str(error))
    pipeline.train().step({"x": x, "target": y})
    assert all(p.grad is not None for n, p in pipeline.named_parameters() if n != "calibration")
    return errors


def test_wrong_calls_are_refused_on_every_rank(pool: WorkerPool) -> None:
    messages = [
        "a call gives outputs in eval mode only",
        "gradients are switched off here",
        "gradients are switched off here",
        "some ranks train and others evaluate",
        "the batch has no target, so there is no loss",
        "on one rank and",
        "forward() missing 1 required positional argument",
    ]
    for errors in pool.run(wrong_calls, plans(False)[0]):
        for error, message in zip(errors, messages, strict=False):
            assert message in error, (error, message)
