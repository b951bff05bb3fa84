"""Models, and plans of them by hand, for the checks of exporters."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.cluster import Cluster, cluster_from_dict
from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph import OpGraph
from drlpp.plan import Plan, Provenance, Sharding, Stage, validate
from drlpp.plan.settings import AGAIN, PLAIN
from drlpp.problem import PlanningProblem
from drlpp.schedules import generate
from drlpp.schedules.orders import to_schedule

SAMPLES, WIDTH, WORDS = 4, 8, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class LanguageModel(nn.Module):
    """Embedding, six blocks, norm and head. `shared`: the head has the weights of the embedding."""

    def __init__(self, num_layers: int = 6, shared: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(num_layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if shared:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h))


class WithLoss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens).square().mean()


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.left = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.right = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.left(x) + self.right(x))


def right_before_left(graph: OpGraph) -> Plan:
    """A chain of two stages that runs the branches of `TwoBranches` in another order than the model does."""
    labels = [0 if op.module.startswith(("stem", "right")) else 1 for op in graph.ops]
    return plan_by_labels(graph, labels, [(0,), (1,)])


def example_tokens() -> torch.Tensor:
    return torch.arange(SAMPLES * 5).reshape(SAMPLES, 5) % WORDS


def capture_language_model(**kwargs: bool) -> OpGraph:
    return capture_module(LanguageModel(**kwargs), [example_tokens()], lambda out: out.square().mean()).graph


def cluster(num_hosts: int = 1, devices_per_host: int = 8) -> Cluster:
    host = {"name": "h", "count": num_hosts, "devices": ["d"] * devices_per_host}
    host |= {"link": {"bandwidth": 1e10}, "network": {"bandwidth": 1e9}}
    types = {"d": {"speed": 1.0, "memory": "16GB"}}
    return cluster_from_dict({"schema_version": 1, "name": "equal", "device_types": types, "hosts": [host]})


def plan_by_modules(
    graph: OpGraph,
    begins: list[str],
    devices: list[tuple[int, ...]],
    *,
    num_microbatches: int = 8,
    schedule: str = "1f1b",
    on: Cluster | None = None,
    recompute: tuple[int, ...] = (),
) -> Plan:
    """Stage s > 0 begins at the first op of module ``begins[s - 1]`` (or at the op of that name)."""
    first: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        first.setdefault(op.name, i)
        parts = op.module.split(".")
        for k in range(len(parts)):
            first.setdefault(".".join(parts[: k + 1]), i)
    starts = [first[b] for b in begins]
    return plan_by_labels(
        graph,
        [sum(i >= s for s in starts) for i in range(graph.num_ops)],
        devices,
        num_microbatches=num_microbatches,
        schedule=schedule,
        on=on,
        recompute=recompute,
    )


def plan_by_labels(
    graph: OpGraph,
    labels: list[int],
    devices: list[tuple[int, ...]],
    *,
    num_microbatches: int = 8,
    schedule: str = "1f1b",
    on: Cluster | None = None,
    recompute: tuple[int, ...] = (),
) -> Plan:
    problem = PlanningProblem.build(graph, on or cluster(), num_microbatches=num_microbatches)
    stages = tuple(
        Stage(
            index=s,
            ops=tuple(op.name for op, label in zip(graph.ops, labels, strict=True) if label == s),
            replicas=tuple((x,) for x in d),
            settings=AGAIN if s in recompute else PLAIN,
        )
        for s, d in enumerate(devices)
    )
    bare = Plan(
        graph=graph,
        cluster=problem.cluster,
        training=problem.training,
        stages=stages,
        schedule={},
        schedule_name=schedule,
        provenance=Provenance(planner="hand"),
    )
    costs = stage_costs(problem, bare.stage_of_op, bare.num_stages)
    placed = place_stages(costs, problem.cluster, devices, num_microbatches)
    plan = dataclasses.replace(bare, schedule=to_schedule(generate(schedule, placed), placed.used))
    validate(plan)
    return plan


def divided(plan: Plan, degree: int, *, sequence: bool = False) -> Plan:
    """The plan with a group of `degree` devices in place of each: d becomes d * degree, d * degree + 1, ..."""

    def group(device: int) -> tuple[int, ...]:
        return tuple(range(device * degree, (device + 1) * degree))

    made = dataclasses.replace(
        plan,
        stages=tuple(
            dataclasses.replace(
                s, replicas=tuple(map(group, s.devices)), sharding=Sharding(tensor=degree, sequence=sequence)
            )
            for s in plan.stages
        ),
        schedule={member: actions for d, actions in plan.schedule.items() for member in group(d)},
    )
    validate(made)
    return made
