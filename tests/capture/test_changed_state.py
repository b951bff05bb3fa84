"""Which state a model changes in its forward pass, and whether replicas can combine it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drlpp.capture import capture_module
from drlpp.cluster import load_cluster
from drlpp.planners.base import Budget
from drlpp.planners.registry import get_planner
from drlpp.problem import PlanningProblem


class Average(nn.Module):
    """Subtracts a moving average, which the pass changes before it reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return self.b(h - self.mean).square().mean()


class Norm(nn.Module):
    """Counts the passes, as batch norms do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.a(x)).square().mean()


class Teacher(nn.Module):
    """A frozen copy that follows what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.teacher = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.teacher.weight.mul_(0.9).add_(self.a.weight, alpha=0.1)
        return (self.a(x) - self.teacher(x)).square().mean()


@pytest.mark.parametrize(("model", "needs_order"), [(Average, True), (Norm, False), (Teacher, True)])
def test_state_that_replicas_cannot_combine(model, needs_order):
    graph = capture_module(model(), torch.randn(3, 4)).graph
    assert graph.has_order == needs_order
    assert PlanningProblem.build(graph, load_cluster("local-4")).may_replicate != needs_order


def test_planners_do_not_replicate_what_needs_order():
    problem = PlanningProblem.build(capture_module(Average(), torch.randn(3, 4)).graph, load_cluster("local-4"))
    for name in ("dp", "uniform", "annealing"):
        plan = get_planner(name).solve(problem, Budget(0.3), 0).plan
        assert all(len(stage.devices) == 1 for stage in plan.stages)
    refused = get_planner("data-parallel").solve(problem, Budget(0.3), 0)
    assert "needs all micro-batches in order" in refused.reason
