"""The training set-up of a plan in the words of engines."""

import dataclasses

import pytest

from chain_plans import chain_plan
from drlpp.export.setup import precision


@pytest.mark.parametrize(
    ("of_plan", "of_graph", "expected"),
    [
        ("fp32", "float32", "fp32"),
        ("tf32", "float32", "fp32"),
        ("bf16", "float32", "bf16"),
        ("fp16", "float32", "fp16"),
        ("fp32", "bfloat16", "bf16"),
        ("bf16", "float16", "bf16"),
    ],
)
def test_the_precision_of_products(of_plan, of_graph, expected):
    plan = chain_plan()
    training = dataclasses.replace(plan.training, precision=of_plan)
    graph = dataclasses.replace(plan.graph, dtype=of_graph)
    assert precision(dataclasses.replace(plan, training=training, graph=graph)) == expected
