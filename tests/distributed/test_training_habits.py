"""What people do around the step: freeze and unfreeze, save, clip, scale, change parameters, train with two losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn import functional as F  # noqa: N812

from drlpp.capture import CapturedModel, capture_module, hollow_parameters
from drlpp.errors import CaptureError, InputError, PlanError
from drlpp.plan import Plan
from drlpp.runtime import Pipeline, build
from plan_cases import captured_of, make_plan, staged
from worker_pool import WorkerPool

pytestmark = pytest.mark.slow

MICROBATCHES = 4
Tensors = dict[str, torch.Tensor]


class Stateful(nn.Module):
    """Tied weights, a buffer that is not persistent, and a parameter and a buffer that the loss does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 6), nn.Linear(6, 12, bias=False)
        self.head.weight = self.table.weight
        self.norm = nn.BatchNorm1d(6)
        self.pooler = nn.Linear(6, 6)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)
        self.register_buffer("version", torch.tensor(3))

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.norm(self.table(ids)) * self.scale), labels)


class Frozen(nn.Module):
    """A backbone that is frozen at first, in front of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.a.requires_grad_(False)
        self.b.requires_grad_(False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.c(torch.tanh(self.b(torch.tanh(self.a(x))))), y)


class Complex(nn.Module):
    """Complex parameters, values and gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 8, dtype=torch.complex64))
        self.b = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))
        self.c = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = torch.fft.fft(x.to(torch.complex64) @ self.a, dim=-1)
        return F.cross_entropy(self.c((h.conj() @ self.b).abs()), y)


class Sparse(nn.Module):
    """Embeddings with sparse gradients; one of them is also read as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.tied = nn.Embedding(20, 8, sparse=True), nn.Embedding(20, 8, sparse=True)
        self.body = nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.body(self.table(ids) + self.tied(ids))) + self.table(ids)
        return F.cross_entropy(h @ self.tied.weight.T, y)


class Normalises(nn.Module):
    """Changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.sub_(0.4).div_(0.2)
        return F.cross_entropy(self.b(torch.tanh(self.a(x))), y)


class Renormalises(nn.Module):
    """Changes a parameter in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8, max_norm=1.0)
        self.body = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.body(self.table(ids)), y)


def floats() -> tuple[torch.Tensor, ...]:
    return torch.randn(4, 6), torch.randint(3, (4,))


def integers(high: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(high, (4,)), torch.randint(3, (4,))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[torch.Tensor, ...]], dict[str, int]]] = {
    "stateful": (Stateful, lambda: integers(12), {"batch_norm": 1, "linear": 2}),
    "frozen": (Frozen, floats, {"linear_1": 1, "linear_2": 2}),
    "complex": (Complex, floats, {"matmul_1": 1, "linear": 2}),
    "sparse": (Sparse, lambda: integers(20), {"linear": 1, "numpy_t": 2, "matmul": 2}),
    "normalises": (Normalises, floats, {"linear_1": 1}),
}


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(7)
    model, inputs, _ = MODELS[name]
    return model(), inputs()


def captured(name: str) -> CapturedModel:
    return captured_of(made, name)


def plan_of(name: str, devices: list[tuple[int, ...]], recompute: tuple[int, ...] = ()) -> Plan:
    graph = captured(name).graph
    labels = staged(graph, MODELS[name][2])
    return make_plan(graph, labels, devices[: max(labels) + 1], num_microbatches=MICROBATCHES, recompute=recompute)


REPLICAS: list[tuple[int, ...]] = [(0, 1), (2, 3), (1, 0)]
CHAIN: list[tuple[int, ...]] = [(0,), (1,), (2,)]


def batch_of(name: str, step: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(100 + step)
    parts = [MODELS[name][1]() for _ in range(MICROBATCHES)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def plain_step(module: nn.Module, batch: tuple[torch.Tensor, ...], parts: int = MICROBATCHES) -> float:
    total = 0.0
    for part in zip(*(t.chunk(parts) for t in batch), strict=True):
        loss = module(*part)
        (loss / parts).backward()
        total += loss.item() / parts
    return total


def assert_state(ranks: list[Tensors], module: nn.Module) -> None:
    wanted = module.state_dict()
    assert set().union(*ranks) == set(wanted)
    for state in ranks:
        for key, tensor in state.items():
            torch.testing.assert_close(tensor, wanted[key], rtol=1e-5, atol=1e-6)


def gathered(plan: Plan) -> tuple[Tensors, Tensors, Tensors]:
    pipeline = build(captured("stateful"), plan, state_dict=made("stateful")[0].state_dict(), timeout_s=60)
    pipeline.step(batch_of("stateful", 0))
    whole, only = pipeline.state_dict(gather=True), pipeline.state_dict(gather=True, rank=2)
    fresh = build(captured("stateful"), plan, timeout_s=60)
    fresh.load_state_dict(whole)
    assert all(torch.equal(t, fresh.state_dict()[n]) for n, t in pipeline.state_dict().items())
    return pipeline.state_dict(), whole, only


def test_the_users_module_takes_the_state_back(pool: WorkerPool) -> None:
    module = made("stateful")[0]
    plain_step(module, batch_of("stateful", 0))
    ranks = pool.run(gathered, plan_of("stateful", REPLICAS))
    assert_state([part for part, _, _ in ranks], module)
    for rank, (_, whole, only) in enumerate(ranks):
        assert bool(only) == (rank == 2)
        made("stateful")[0].load_state_dict(whole, strict=True)
        assert_state([whole], module)


def wrong_states(plan: Plan) -> list[str]:
    state = made("stateful")[0].state_dict()
    wrong = [
        {f"module.{n}": t for n, t in state.items()},
        {n: t for n, t in state.items() if n != "norm.running_mean"},
        {n: t for n, t in state.items() if "weight" not in n},
        {**state, "norm.bias": torch.zeros(7)},
    ]
    errors = []
    pipeline = build(captured("stateful"), plan)
    for given in wrong:
        for use in (lambda given=given: build(captured("stateful"), plan, state_dict=given), None):
            try:
                pipeline.load_state_dict(given) if use is None else use()
                errors.append("")
            except InputError as error:
                errors.append(str(error))
    return errors


def test_wrong_state_dicts_are_refused(pool: WorkerPool) -> None:
    errors = pool.run(wrong_states, plan_of("stateful", [(0, 1, 2, 3)] * 3))[0]
    messages = ["has 'module.", "has no 'norm.running_mean'", "has no 'table.weight'", r"'norm.bias' of the state dict"]
    for error, message in zip(errors, [m for m in messages for _ in range(2)], strict=True):
        assert message in error, (error, message)


def trained(name: str, plan: Plan, between: str, clip: float = 0.0) -> tuple[list[float], list[float], Tensors]:
    """Three steps of SGD with something done between them."""
    pipeline = build(captured(name), plan, state_dict=made(name)[0].state_dict(), timeout_s=60)
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=0.1)
    losses, norms = [], []
    for step in range(3):
        CHANGES[between](pipeline, step)
        losses.append(pipeline.step(batch_of(name, step)).item())
        if clip:
            norms.append(pipeline.clip_grad_norm(clip).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, pipeline.state_dict()


def unfreeze(target: Pipeline | nn.Module, step: int) -> None:
    for name, parameter in target.named_parameters():
        if name.startswith("b") and step == 1:
            parameter.requires_grad_(True)
        if name.startswith("a") and step == 2:
            parameter.requires_grad_(True)
            assert name


def clamp(target: Pipeline | nn.Module, step: int) -> None:
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.clamp_(-0.2, 0.2)


CHANGES: dict[str, Callable[[Any, int], None]] = {
    "nothing": lambda target, step: None,
    "unfreeze": unfreeze,
    "clamp": clamp,
}


@pytest.mark.parametrize(
    ("name", "between", "clip"),
    [
        ("frozen", "unfreeze", 0.0),
        ("frozen", "clamp", 0.0),
        ("complex", "nothing", 0.5),
        ("sparse", "nothing", 0.5),
        ("stateful", "clamp", 0.1),
    ],
)
@pytest.mark.parametrize("devices", [REPLICAS, CHAIN])
def test_habits_equal_one_process(
    pool: WorkerPool, name: str, between: str, clip: float, devices: list[tuple[int, ...]]
) -> None:
    ranks = pool.run(trained, name, plan_of(name, devices, recompute=(1,)), between, clip)
    module = made(name)[0]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses, norms = [], []
    for step in range(3):
        CHANGES[between](module, step)
        losses.append(plain_step(module, batch_of(name, step)))
        if clip:
            norms.append(plain_norm(module, clip))
        optimizer.step()
        optimizer.zero_grad()
    for theirs, theirs_norms, _ in ranks:
        assert theirs == pytest.approx(losses, rel=1e-5)
        assert theirs_norms == pytest.approx(norms, rel=1e-5)
    assert_state([state for *_, state in ranks], module)


def plain_norm(module: nn.Module, clip: float) -> float:
    gradients = [p.grad.to_dense() for p in module.parameters() if p.grad is not None]
    norm = torch.stack([g.abs().square().sum() for g in gradients]).sum().sqrt().item()
    for p in module.parameters():
        if p.grad is not None:
            p.grad = p.grad * min(1.0, clip / (norm + 1e-6))
    return norm


def flags_that_differ(plan: Plan) -> list[str]:
    pipeline = build(captured("frozen"), plan, timeout_s=30)
    errors = []
    parameters = dict(pipeline.named_parameters())
    if dist.get_rank() == 0:
        parameters["a.weight"].requires_grad_(True)
    for change in (lambda: None, lambda: [p.requires_grad_(False) for p in parameters.values()]):
        change()
        try:
            pipeline.step()
        except InputError as error:
            errors.append(str(error))
    return errors


def attributes_that_change(plan: Plan) -> list[str]:
    module, inputs = made("frozen")
    module.strength, module.passes = 0.5, 0
    pipeline = build(capture_module(module, inputs), plan, timeout_s=30)
    module.passes = 3
    pipeline.step()
    if dist.get_rank() == 0:
        module.strength = 0.7
    try:
        pipeline.step()
    except InputError as error:
        return [str(error)]
    return []


def test_attributes_that_change_after_the_capture_are_refused(pool: WorkerPool) -> None:
    for errors in pool.run(attributes_that_change, plan_of("frozen", REPLICAS)):
        assert "attribute 'strength' was 0.5 at the capture and is 0.7 now" in errors[0]


def test_flags_that_cannot_be_followed_are_refused(pool: WorkerPool) -> None:
    for errors in pool.run(flags_that_differ, plan_of("frozen", REPLICAS)):
        assert "'a.weight' has requires_grad" in errors[0]
        assert "no parameter that the loss depends on is trained" in errors[1]


@pytest.mark.parametrize("recompute", [(), (0,)])
def test_an_input_that_is_changed_in_place(pool: WorkerPool, recompute: tuple[int, ...]) -> None:
    ranks = pool.run(trained, "normalises", plan_of("normalises", CHAIN, recompute), "nothing")
    module = made("normalises")[0]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(3):
        plain_step(module, batch_of("normalises", step))
        optimizer.step()
        optimizer.zero_grad()
    assert_state([state for *_, state in ranks], module)


def built(plan: Plan) -> str:
    """The error of `build` for a model that has no values, and so was not checked by the capture."""
    with hollow_parameters():
        model = Renormalises()
    try:
        build(capture_module(model, integers(20)), plan, make_model=Renormalises, timeout_s=30)
    except PlanError as error:
        return str(error)
    return ""


def test_a_parameter_that_the_forward_pass_changes(pool: WorkerPool) -> None:
    """The capture refuses it; where it could not look, every rank does."""
    with pytest.raises(CaptureError, match="forward changes parameter 'table.weight', which is trained, in place"):
        capture_module(Renormalises(), integers(20))
    with hollow_parameters():
        graph = capture_module(Renormalises(), integers(20)).graph
    labels = staged(graph, {"linear": 1})
    for devices, recompute in (([(0, 1), (2,)], ()), ([(0,), (1,)], (0,))):
        plan = make_plan(graph, labels, devices, num_microbatches=MICROBATCHES, recompute=recompute)
        assert all("changes parameter 'table.weight' in its forward pass" in e for e in pool.run(built, plan))


def noisy(plan: Plan, seeded: bool) -> str:
    pipeline = build(captured("stateful"), plan, timeout_s=30)
    try:
        for step in range(3):
            torch.manual_seed(step if seeded else dist.get_rank())
            with torch.no_grad():
                for parameter in pipeline.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
            pipeline.step()
    except InputError as error:
        return str(error)
    return ""


def test_copies_that_are_changed_in_different_ways_are_refused(pool: WorkerPool) -> None:
    plan = plan_of("stateful", [(0, 1, 2, 3)] * 3)
    assert all("differ: between the steps it was changed in another way" in e for e in pool.run(noisy, plan, False))
    assert pool.run(noisy, plan, True) == [""] * 4


def scaled(plan: Plan) -> list[tuple[float, bool]]:
    """Scale, and whether parameters changed, per step; in the second one gradient of one rank is infinite."""
    pipeline = build(captured("frozen"), plan, timeout_s=60, autocast=torch.float16)
    scaler = ShardedGradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=0.1)
    out = []
    for step in range(3):
        before = [p.detach().clone() for p in pipeline.parameters()]
        pipeline.step(scaler=scaler)
        held = [p for p in pipeline.parameters() if p.grad is not None]
        if step == 1 and dist.get_rank() == 2:
            held[0].grad.view(-1)[0] = float("inf")  # type: ignore[union-attr]
        scaler.unscale_(optimizer)
        norm = pipeline.clip_grad_norm(10.0).item()
        assert step == 1 or 0 < norm < 10
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        changed = any(not torch.equal(a, b) for a, b in zip(before, pipeline.parameters(), strict=True))
        out.append((scaler.get_scale(), changed))
    with pytest.raises(InputError, match="which lets each rank decide"):
        pipeline.step(scaler=torch.amp.GradScaler("cpu"))  # type: ignore[arg-type]
    return out


def test_a_scaler_decides_once_for_all_ranks(pool: WorkerPool) -> None:
    ranks = pool.run(scaled, plan_of("frozen", [(0,), (1,), (2, 3)]))
    for rank, steps in enumerate(ranks):
        assert [scale for scale, _ in steps] == [2.0**10, 2.0**9, 2.0**9]
        assert [changed for _, changed in steps] == [rank >= 2, False, rank >= 2]


class Game(nn.Module):
    """One of the two losses of a generator and its critic."""

    def __init__(self, generator: nn.Module, critic: nn.Module, of_critic: bool) -> None:
        super().__init__()
        self.generator, self.critic, self.of_critic = generator, critic, of_critic

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        fake = self.generator(z)
        if self.of_critic:
            return F.softplus(-self.critic(x)).mean() + F.softplus(self.critic(fake.detach())).mean()
        return F.softplus(-self.critic(fake)).mean()


def players() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)
    )


def game_inputs(step: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(50 + step)
    return torch.randn(samples, 6), torch.randn(samples, 3)


def game_plan(of_critic: bool, devices: list[tuple[int, ...]]) -> Plan:
    graph = capture_module(Game(*players(), of_critic), game_inputs(0, 4)).graph
    critic = {op.name: 1 for op in graph.ops if "critic" in op.module}
    return make_plan(graph, staged(graph, critic), devices, num_microbatches=2)


def played(plans: list[Plan]) -> Tensors | str:
    generator, critic = players()
    try:
        pipelines = [
            build(capture_module(Game(generator, critic, bool(k)), game_inputs(0, 4)), plan, timeout_s=60)
            for k, plan in enumerate(plans)
        ]
    except InputError as error:
        return str(error)
    optimizers = [
        torch.optim.SGD([{"params": [p for n, p in pipeline.named_parameters() if n.startswith(prefix)]}], lr=0.1)
        for pipeline, prefix in zip(pipelines, ("generator", "critic"), strict=True)
    ]
    for step in range(4):
        pipeline, optimizer = pipelines[step % 2], optimizers[step % 2]
        pipeline.step(game_inputs(step, 8))
        optimizer.step()
        for parameter in pipeline.parameters():
            parameter.grad = None
    return pipelines[0].state_dict(gather=True)


def test_two_losses_over_one_module(pool: WorkerPool) -> None:
    same = [game_plan(False, [(0,), (1, 2)]), game_plan(True, [(0,), (1, 2)])]
    generator, critic = players()
    games = [Game(generator, critic, bool(k)) for k in range(2)]
    for step in range(4):
        player = (generator, critic)[step % 2]
        x, z = game_inputs(step, 8)
        for part in zip(x.chunk(2), z.chunk(2), strict=True):
            (games[step % 2](*part) / 2).backward()
        with torch.no_grad():
            for parameter in player.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]
        for game in games:
            game.zero_grad()
    for state in pool.run(played, same):
        assert_state([state], games[0])
    other = [game_plan(False, [(0,), (1,)]), game_plan(True, [(1,), (0,)])]
    assert all("another pipeline trains parameter" in e for e in pool.run(played, other))


def test_two_parameters_with_one_memory_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = nn.Parameter(self.a.weight.data)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)).square().mean()  # type: ignore[no-any-return]

    with pytest.raises(CaptureError, match=r"'a.weight' and 'b.weight' are two tensors with the same memory: tie them"):
        capture_module(Tied(), (torch.randn(2, 4),))


def test_a_loss_with_the_name_of_a_part_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.criterion(x)  # type: ignore[no-any-return]

    class Loss(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).square().mean()

    with pytest.raises(CaptureError, match="both have a tensor 'criterion.bias'"):
        capture_module(Net(), (torch.randn(2, 4),), Loss(4, 4))
