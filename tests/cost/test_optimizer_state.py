"""Bytes that a parameter takes, by element type, precision and optimizer."""

import dataclasses

import pytest

from drlpp.cost.optimizer_state import late_gradient, resident_factor, state_bytes
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.training import TrainingSetup

FLOAT32 = chain_graph(2, param_bytes=4.0)
BFLOAT16 = dataclasses.replace(FLOAT32, dtype="bfloat16", compute_dtype="bfloat16")


@pytest.mark.parametrize(
    ("graph", "options", "bytes_per_param"),
    [
        (FLOAT32, {"optimizer": "sgd"}, 8),
        (FLOAT32, {"optimizer": "adamw"}, 16),
        (FLOAT32, {"optimizer": "adamw", "precision": "bf16"}, 16),
        (FLOAT32, {"optimizer": "adamw", "precision": "bf16", "main_parameters": True}, 18),
        (BFLOAT16, {"optimizer": "adamw", "precision": "bf16"}, 8),
        (BFLOAT16, {"optimizer": "adamw", "precision": "bf16", "main_parameters": True}, 18),
        (BFLOAT16, {"optimizer": "momentum", "precision": "bf16", "main_parameters": True}, 14),
    ],
)
def test_bytes_per_parameter(graph, options, bytes_per_param):
    size = 4 if graph.dtype == "float32" else 2
    training = TrainingSetup(num_microbatches=1, **options)
    assert resident_factor(graph, training) * size == bytes_per_param
    state = state_bytes(graph, training)
    assert state.total == state.parameter + state.gradient + state.states


@pytest.mark.parametrize(
    ("precision", "main", "late"), [("fp32", False, 1.0), ("bf16", False, 1.0), ("bf16", True, 0.0)]
)
def test_gradients_exist_from_the_first_backward_pass_on_unless_they_are_summed_in_a_buffer(precision, main, late):
    training = TrainingSetup(num_microbatches=1, optimizer="adamw", precision=precision, main_parameters=main)
    assert late_gradient(chain_graph(2), training) == late
