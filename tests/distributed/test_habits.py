"""Modules with habits, trained by stages, replicas and recomputation, move as they do in plain PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import capture_module
from drlpp.errors import PlanError
from drlpp.plan import Plan
from drlpp.runtime import build
from habit_fuzz import fuzz_job, in_order
from habit_models import made
from plan_cases import captured_model, captured_of, make_plan
from worker_pool import WorkerPool

pytestmark = pytest.mark.slow

MICROBATCHES, STEPS, RATE = 4, 3, 0.1


def batch_of(step: int, number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + number)
    return {"x": torch.randn(6, 8, generator=generator), "y": torch.randint(0, 4, (6,), generator=generator)}


def pipeline_job(name: str, plan: Plan) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses, and the state of all ranks."""
    module, batch = made(name)
    captured = capture_module(module, batch)  # a copy of one that was made before would have no hooks on parameters
    pipeline = build(captured, plan, state_dict={k: v.clone() for k, v in module.state_dict().items()})
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=RATE)
    losses = []
    for step in range(STEPS):
        losses.append(pipeline.step([batch_of(step, m) for m in range(MICROBATCHES)]).item())
        optimizer.step()
        optimizer.zero_grad()
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, pipeline.state_dict())
    return losses, {k: v for part in parts for k, v in part.items()}


def plain_run(name: str) -> tuple[list[float], nn.Module]:
    module, _ = made(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        total = 0.0
        for m in range(MICROBATCHES):
            loss = module(**batch_of(step, m))
            (loss / MICROBATCHES).backward()
            total += loss.item() / MICROBATCHES
        losses.append(total)
        optimizer.step()
        optimizer.zero_grad()
    return losses, module


def plan_of(name: str, devices: list[tuple[int, ...]], **more: Any) -> Plan:
    """A plan with equal numbers of ops in its stages."""
    graph = captured_of(made, name).graph
    labels = [i * len(devices) // graph.num_ops for i in range(graph.num_ops)]
    return make_plan(graph, labels, devices, num_microbatches=MICROBATCHES, **more)


@pytest.mark.parametrize(
    ("name", "devices", "more"),
    [
        ("ReversedGradient", [(0,), (1, 2)], {}),
        ("Quantised", [(0,), (1,)], {"recompute": (0, 1)}),
        ("NumpyFunction", [(0,), (1,)], {"split": 1.0}),
        ("TensorHook", [(0,), (1,), (2,)], {"split": 1.0}),
        ("ClippingParameterHook", [(0,), (1, 2)], {"split": 1.0}),
        ("ParameterHook", [(0,), (1,)], {"recompute": (0, 1)}),
        ("HookedAndTied", [(0,), (1,)], {}),
        ("ModuleBackwardHook", [(0,), (1,)], {"recompute": (0, 1), "split": 1.0}),
        ("StaysInEval", [(0, 1, 2)], {}),
        ("EvalPart", [(0,), (1, 2)], {"recompute": (0, 1)}),
        ("ReentrantCheckpointedNorm", [(0,), (1, 2)], {}),
        ("NormalisedInPlace", [(0,), (1,)], {"recompute": (0, 1)}),
        ("NormalisedInPlace", [(0, 1)], {}),
        ("FrozenForAWhile", [(0,), (1,)], {}),
        ("WithMapped", [(0,), (1, 2)], {"recompute": (0, 1), "split": 1.0}),
        ("WithDerivative", [(0, 1), (2,)], {"recompute": (0, 1)}),
        ("WithExperts", [(0,), (1, 2)], {"split": 1.0}),
        ("WithPacked", [(0,), (1,)], {"recompute": (0, 1)}),
        ("CheckpointInCheckpoint", [(0,), (1, 2)], {"recompute": (0, 1)}),
        ("LateBuffer", [(0,), (1, 2)], {}),
        ("SynchronisedNorm", [(0,), (1, 2)], {}),
    ],
)
def test_stages_move_as_the_module_does(
    pool: WorkerPool, name: str, devices: list[tuple[int, ...]], more: dict[str, Any]
) -> None:
    check_run(pool, name, plan_of(name, devices, **more))


def test_what_forward_changes_may_be_needed_by_the_backward_passes_before(pool: WorkerPool) -> None:
    check_run(pool, "FollowingEncoder", in_order(plan_of("FollowingEncoder", [(0,), (1,), (2,)])))


@pytest.mark.parametrize("name", ["WithCumulativeNorm", "WithUncountedStatistics", "WithHookedNorm"])
def test_statistics_of_whole_modules_move_once_with_recomputation(pool: WorkerPool, name: str) -> None:
    check_run(pool, name, in_order(plan_of(name, [(0,), (1,)], recompute=(0, 1))))


def check_run(pool: WorkerPool, name: str, plan: Plan) -> None:
    losses, state = pool.run(pipeline_job, name, plan)[0]
    wanted, module = plain_run(name)
    assert losses == pytest.approx(wanted, rel=1e-5)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6, msg=key)


def refusal(name: str, plan: Plan) -> str:
    module, batch = made(name)
    try:
        build(capture_module(module, batch), plan, state_dict=module.state_dict())
    except PlanError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "buffer"),
    [("AssignedBuffer", "average"), ("WithUncountedStatistics", "part.average"), ("WithHookedNorm", "norm.")],
)
def test_what_replicas_cannot_do_is_refused(pool: WorkerPool, name: str, buffer: str) -> None:
    for line in pool.run(refusal, name, plan_of(name, [(0, 1)])):
        assert buffer in line
        assert "give the stage one device" in line


def refusal_of_a_late_hook(name: str, plan: Plan) -> str:
    """The answer to a hook that is set after the capture, which keeps the readers of earlier hooks together."""
    captured = captured_model("tied")
    captured.module.get_parameter(name).register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    try:
        build(captured, plan)
    except PlanError as error:
        return str(error)
    return ""


def test_a_hook_on_a_parameter_of_two_stages_is_refused(pool: WorkerPool) -> None:
    graph = captured_model("tied").graph
    name, readers = next(
        (name, found)
        for name in graph.param_bytes
        if len(found := [i for i, op in enumerate(graph.ops) if name in op.params]) > 1
    )
    plan = make_plan(graph, [int(i >= readers[1]) for i in range(graph.num_ops)], [(0,), (1,)], num_microbatches=2)
    for line in pool.run(refusal_of_a_late_hook, name, plan):
        assert f"parameter {name!r} has a gradient hook" in line


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_random_modules_under_random_plans_are_equal_or_refused(pool: WorkerPool, seed: int) -> None:
    outcome = pool.run(fuzz_job, seed, 3)[0]
    assert outcome.status in ("equal", "refused"), f"{outcome.kinds}: {outcome.detail}"
