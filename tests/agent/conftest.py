"""A small problem, its view and a small policy."""

from __future__ import annotations

import pytest
import torch

from agent_problems import small_problem
from drlpp.agent.networks.policy import Policy, PolicyConfig
from drlpp.agent.view.features import ProblemView, problem_view
from drlpp.problem import PlanningProblem


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def problem() -> PlanningProblem:
    return small_problem()


@pytest.fixture
def view(problem: PlanningProblem) -> ProblemView:
    return problem_view(problem)


@pytest.fixture
def policy() -> Policy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(PolicyConfig(width=16, num_layers=2))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
