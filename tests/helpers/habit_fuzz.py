"""Random small modules with the habits of people who train models, trained under random plans and in plain PyTorch."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from drlpp.capture import CapturedModel, capture_module
from drlpp.errors import InputError, PlanError
from drlpp.plan import Action, Plan
from drlpp.runtime import build
from habit_models import Quantise, Reverse, bound_early
from plan_cases import random_plan

WIDTH, SAMPLES, STEPS, RATE = 6, 4, 3, 0.05
Block = Callable[[torch.Tensor], torch.Tensor]


class Part(nn.Module):
    """One block of a module: a linear layer and a habit, which is named by `kind`."""

    def __init__(self, kind: str, draw: random.Random) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH, momentum=draw.choice([0.1, 0.5]))
        self.strength = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("average", torch.zeros(WIDTH))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.calls = 0
        prepare = getattr(self, f"prepare_{kind}", None)
        if prepare is not None:
            prepare()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return getattr(self, f"run_{self.kind}")(h)  # type: ignore[no-any-return]

    def run_plain(self, h: torch.Tensor) -> torch.Tensor:
        return F.relu(self.linear(h), inplace=True) + h

    def run_reverse(self, h: torch.Tensor) -> torch.Tensor:
        return self.linear(Reverse.apply(h, 0.3)) + h  # type: ignore[no-any-return]

    def run_early(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(bound_early(h, -2.0)))

    def run_quantise(self, h: torch.Tensor) -> torch.Tensor:
        value, code = Quantise.apply(self.linear(h), self.strength)
        return h + value + 0.01 * code  # type: ignore[no-any-return]

    def run_hook(self, h: torch.Tensor) -> torch.Tensor:
        y = self.linear(h)
        y.register_hook(lambda g: g * 0.2)
        return h + y.tanh()

    def run_clamped(self, h: torch.Tensor) -> torch.Tensor:
        y = self.linear(h)
        y.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
        return y * 0.5 + h * y.detach()

    def run_reentrant(self, h: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(checkpoint(self.linear, h, use_reentrant=True)) + h

    def run_checkpoint(self, h: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda x: self.norm(self.linear(x)).tanh(), h, use_reentrant=False) + h  # type: ignore[no-any-return]

    def run_no_grad(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = self.norm(self.linear(h))
        return h * target.sigmoid()

    def run_inference(self, h: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            teacher = self.linear(h)
        return h + teacher.clone() * self.strength

    def run_norm(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(h)) + h  # type: ignore[no-any-return]

    def prepare_eval_norm(self) -> None:
        self.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        self.norm.eval()

    def run_eval_norm(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(F.dropout(h, 0.5, self.norm.training)))  # type: ignore[no-any-return]

    def prepare_frozen(self) -> None:
        self.linear.requires_grad_(False)

    def run_frozen(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(h)) * self.strength + h

    def prepare_parameter_hook(self) -> None:
        mask = torch.rand(WIDTH, WIDTH) > 0.5
        self.linear.weight.register_hook(lambda g: g * mask)
        self.linear.bias.register_hook(lambda g: g.clamp(-1e-3, 1e-3))

    run_parameter_hook = run_plain

    def prepare_module_hook(self) -> None:
        self.linear.register_full_backward_hook(lambda module, into, out: None if into[0] is None else (into[0] * 0.1,))

    run_module_hook = run_norm

    def prepare_forward_hook(self) -> None:
        self.linear.register_forward_hook(lambda module, args, output: output.tanh())

    run_forward_hook = run_norm

    def run_toggled(self, h: torch.Tensor) -> torch.Tensor:
        self.linear.requires_grad_(False)
        y = self.linear(h)
        self.linear.requires_grad_(True)
        return y + self.linear(h.detach()).tanh()  # type: ignore[no-any-return]

    def run_assigned(self, h: torch.Tensor) -> torch.Tensor:
        before = self.average
        self.average = 0.9 * before + 0.1 * h.detach().mean(0)
        return self.linear(h - before) * (1 + self.average.abs())  # type: ignore[no-any-return]

    def run_moving(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.average.mul_(0.5).add_(h.mean(0), alpha=0.5)
            self.count += 1
        return self.linear(h) - self.average.clone()  # type: ignore[no-any-return]

    def run_counted(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(h) + h  # type: ignore[no-any-return]

    def run_warm_buffer(self, h: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return self.linear(h) * (1 - torch.exp(-0.3 * self.count.to(h.dtype)))  # type: ignore[no-any-return]

    def run_annealed(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(h) / self.calls  # type: ignore[no-any-return]

    def run_random(self, h: torch.Tensor) -> torch.Tensor:
        return self.linear(h) if random.random() < 0.5 else h  # type: ignore[no-any-return]

    def prepare_spectral(self) -> None:
        self.linear = parametrizations.spectral_norm(self.linear)

    run_spectral = run_plain

    def prepare_weight_norm(self) -> None:
        self.linear = parametrizations.weight_norm(self.linear)

    run_weight_norm = run_plain

    def run_in_place(self, h: torch.Tensor) -> torch.Tensor:
        y = self.linear(h)
        y[:, ::2].mul_(2.0)
        y += h
        return y.tanh_()  # type: ignore[no-any-return]

    def run_data(self, h: torch.Tensor) -> torch.Tensor:
        return self.linear(h.data) + h * self.strength.data  # type: ignore[no-any-return]

    def run_autocast(self, h: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            return self.linear(h).tanh() + h  # type: ignore[no-any-return]

    def run_filled(self, h: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(h)
        kept[:, : WIDTH // 2] = torch.tanh(h[:, WIDTH // 2 :])
        kept[:, WIDTH // 2 :] += self.linear(h)[:, : WIDTH // 2]
        return kept

    def run_auxiliary(self, h: torch.Tensor) -> torch.Tensor:
        self.auxiliary = 0.01 * h.square().mean()
        return self.linear(h)  # type: ignore[no-any-return]


KINDS = sorted(n.removeprefix("run_") for n in dir(Part) if n.startswith("run_"))
RARE = ("annealed", "random")
"""Refused, so they are drawn less often."""


class Habits(nn.Module):
    """A few blocks one after the other or side by side, and a loss. All is drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        kinds = [draw.choice(KINDS) for _ in range(draw.randint(2, 5))]
        self.kinds = [k if k not in RARE or draw.random() < 0.3 else "plain" for k in kinds]
        self.parts = nn.ModuleList(Part(k, draw) for k in self.kinds)
        self.side = draw.choice([None, *range(len(kinds))])
        self.normalise = draw.random() < 0.2
        self.head = nn.Linear(WIDTH, WIDTH)
        if draw.random() < 0.25 and not hasattr(self.parts[0].linear, "parametrizations"):
            self.head.weight = self.parts[0].linear.weight  # type: ignore[union-attr]
        if draw.random() < 0.2:
            self.parts[-1].eval()
        if draw.random() < 0.3:
            self.parts[draw.randrange(len(kinds))].requires_grad_(False)
        self.to(draw.choice([torch.float32, torch.float64]))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.normalise:
            x.sub_(0.1).div_(1.5)
        h, first = x, x
        for i, part in enumerate(self.parts):
            h = part(h) if i != self.side else part(h) + part(first * 0.5)
        loss = F.cross_entropy(self.head(h), y)
        return loss + sum(p.auxiliary for p in self.parts if hasattr(p, "auxiliary"))


def made(seed: int) -> tuple[Habits, tuple[torch.Tensor, torch.Tensor]]:
    """A module and its micro-batch, always the same."""
    torch.manual_seed(seed)
    model = Habits(seed)
    return model, (torch.randn(SAMPLES, WIDTH, dtype=model.head.weight.dtype), torch.randint(0, WIDTH, (SAMPLES,)))


def micro_batch(example: tuple[torch.Tensor, torch.Tensor], step: int, number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + number)
    x, y = example
    return {
        "x": torch.randn(x.shape, generator=generator, dtype=x.dtype),
        "y": torch.randint(0, WIDTH, y.shape, generator=generator),
    }


@dataclasses.dataclass
class Outcome:
    """What became of a module: ``equal``, ``refused`` (with the line) or ``different`` (with what differs)."""

    status: str
    detail: str
    kinds: list[str]


def fuzz_job(seed: int, num_devices: int) -> Outcome | None:
    """Trains module `seed` under plan `seed`. Called on every rank; the first one compares."""
    import torch.distributed as dist

    model, example = made(seed)
    try:
        captured = capture_module(model, example)
        count = int(np.random.default_rng(seed).integers(2, 5))
        pipeline = _built(captured, seed, num_devices, count, {k: v.clone() for k, v in model.state_dict().items()})
        optimizer = torch.optim.SGD([{"params": list(pipeline.parameters())}], lr=RATE)
        losses = []
        for step in range(STEPS):
            losses.append(float(pipeline.step([micro_batch(example, step, m) for m in range(count)])))
            optimizer.step()
            optimizer.zero_grad()
    except InputError as error:
        return Outcome("refused", f"{type(error).__name__}: {error}", model.kinds)
    state = pipeline.gather_state_dict() if hasattr(pipeline, "gather_state_dict") else _gathered(pipeline)
    if dist.get_rank():
        return None
    difference = _differs(seed, count, losses, state)
    return Outcome("different" if difference else "equal", difference, model.kinds)


def _built(captured: CapturedModel, seed: int, num_devices: int, count: int, state: dict[str, torch.Tensor]) -> Any:
    """The pipeline of a random plan; of one without replicas, in order, if the module cannot have others."""
    try:
        plan = random_plan(captured.graph, seed, num_devices=num_devices, num_microbatches=count)
        return build(captured, plan, state_dict=state)
    except PlanError:
        plan = random_plan(captured.graph, seed, num_devices=num_devices, num_microbatches=count, replicas=0.0)
        return build(captured, in_order(plan), state_dict=state)


def in_order(plan: Plan) -> Plan:
    """The plan with all forward passes, then all backward passes, in the order of the micro-batches."""
    schedule = {}
    for device, actions in plan.schedule.items():
        stages = sorted({a.stage for a in actions})
        runs = [Action(s, "F", m) for m in range(plan.num_microbatches) for s in stages]
        runs += [Action(s, "B", m) for m in range(plan.num_microbatches) for s in reversed(stages)]
        schedule[device] = tuple(runs)
    return dataclasses.replace(plan, schedule=schedule)


def _gathered(pipeline: Any) -> dict[str, torch.Tensor]:
    import torch.distributed as dist

    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, pipeline.state_dict())
    return {k: v for part in parts for k, v in part.items()}


def _differs(seed: int, count: int, losses: list[float], state: dict[str, torch.Tensor]) -> str:
    """What differs from plain PyTorch; empty if nothing does."""
    plain, example = made(seed)
    begin = {k: v.clone() for k, v in plain.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=RATE)
    for step in range(STEPS):
        total = 0.0
        for m in range(count):
            loss = plain(**micro_batch(example, step, m))
            (loss / count).backward()
            total += loss.item() / count
        if abs(total - losses[step]) > 1e-5 * max(1.0, abs(total)):
            return f"loss of step {step}: {losses[step]} instead of {total}"
        optimizer.step()
        optimizer.zero_grad()
    moved = max(float((v - begin[k]).double().norm()) for k, v in plain.state_dict().items())
    for name, wanted in plain.state_dict().items():
        if name not in state:
            return f"{name} is missing"
        off = float((state[name].double() - wanted.double()).norm())
        own = float((wanted.double() - begin[name].double()).norm())
        if not off <= 1e-5 * max(own, 1e-2 * moved, float(wanted.double().norm())):
            return f"{name}: off by {off:.3g}, moved {own:.3g}"
    return ""
