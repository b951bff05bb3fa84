"""A captured language model and a plan of it in whole layers."""

from __future__ import annotations

import pytest

from drlpp.capture import capture_module
from drlpp.graph import OpGraph
from drlpp.plan import Plan
from exported_models import TwoBranches, capture_language_model, plan_by_modules


@pytest.fixture(scope="session")
def language_model() -> OpGraph:
    return capture_language_model()


@pytest.fixture(scope="session")
def layered_plan(language_model) -> Plan:
    """Embedding and one layer; two layers; three layers, norm and head: on devices 2, 0, 1."""
    return plan_by_modules(language_model, ["layers.1", "layers.3"], [(2,), (0,), (1,)])


@pytest.fixture(scope="session")
def branches() -> OpGraph:
    import torch

    return capture_module(TwoBranches(), [torch.ones(4, 8)], lambda out: out.square().mean()).graph
