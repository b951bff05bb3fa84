"""What a parameter takes beside itself: gradient, optimizer states, main parameters.

Bytes per element of a trained parameter; of a frozen one, and of buffers, there is the first column only:

===================================================  =========  ========  ====  ==========
training                                             parameter  gradient  main  each state
===================================================  =========  ========  ====  ==========
parameters of b bytes (mixed precision: 4 bytes)        b          b       -        b
low precision with main parameters                      2          4       4        4
===================================================  =========  ========  ====  ==========

The last is how Megatron-LM and DeepSpeed keep parameters (`TrainingSetup.main_parameters`). States: 0 for ``sgd``, 1
for ``momentum``, 2 for ``adamw``. With Adam it takes 18 bytes per parameter (Rajbhandari et al., SC 2020, count 16 with
gradients in low precision). The copies of parameters that products keep in mixed precision are activations
(`drlpp.graph.mixed_precision`).

Under ZeRO stage 1 the devices that sum the gradient of a parameter divide main parameter and states, and the step of
the optimizer. They are taken to divide them equally; `drlpp run` divides whole parameters.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from drlpp.graph import OpGraph
from drlpp.problem import PlanningProblem
from drlpp.training import NO_OPTIMIZER, OPTIMIZER_STATES, TrainingSetup

_ELEMENT_BYTES = {"float64": 8.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_LOW, _FLOAT32 = 2.0, 4.0
OPTIMIZER_PASSES = {"sgd": 3.0, "momentum": 5.0, "adamw": 7.0, NO_OPTIMIZER: 0.0}
"""Times that an optimizer step reads or writes each parameter byte (parameter, gradient, states)."""


@dataclasses.dataclass(frozen=True, slots=True)
class StateBytes:
    """Resident bytes per byte of a trained parameter of the graph.

    Attributes:
        parameter: all that a frozen parameter or a buffer takes.
        states: of the optimizer, and main parameters.
        divided: the part of `states` that the devices divide which sum the gradient: all of it with ZeRO-1, else none.
    """

    parameter: float
    gradient: float
    states: float
    divided: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.parameter + self.gradient + self.states


def state_bytes(graph: OpGraph, training: TrainingSetup) -> StateBytes:
    """What each byte of a trained parameter takes."""
    if not training.trains:
        return StateBytes(1.0, 0.0, 0.0, 0.0)
    states = float(OPTIMIZER_STATES[training.optimizer])
    if not (training.in_low_precision and training.main_parameters):
        return StateBytes(1.0, 1.0, states, states * training.zero1)
    size = _ELEMENT_BYTES.get(graph.dtype, _FLOAT32)
    states = (1.0 + states) * _FLOAT32 / size
    return StateBytes(_LOW / size, _FLOAT32 / size, states, states * training.zero1)


def late_gradient(graph: OpGraph, training: TrainingSetup) -> float:
    """The gradient of a byte of a parameter, where it exists from the first backward pass on only.

    Training with main parameters sums gradients in a buffer that is there from the start.
    """
    buffered = training.in_low_precision and training.main_parameters
    return 0.0 if buffered else state_bytes(graph, training).gradient


def resident_factor(graph: OpGraph, training: TrainingSetup, replicas: int = 1) -> float:
    """Resident bytes per byte of a trained parameter of the graph, on each of some replicas."""
    state = state_bytes(graph, training)
    return state.total - state.divided * (1 - 1 / replicas)


def op_fixed_bytes(graph: OpGraph, training: TrainingSetup) -> NDArray[np.float64]:
    """``[num_ops]`` resident bytes of frozen parameters and buffers; a shared one counts at its first reader."""
    return graph.op_frozen_bytes * state_bytes(graph, training).parameter


def op_resident_bytes(graph: OpGraph, training: TrainingSetup, replicas: int = 1) -> NDArray[np.float64]:
    """``[num_ops]`` all resident bytes on each of some replicas; what is shared counts at its first reader."""
    return graph.op_trained_bytes * resident_factor(graph, training, replicas) + op_fixed_bytes(graph, training)


def optimizer_s_per_byte(problem: PlanningProblem) -> NDArray[np.float64]:
    """``[D]`` seconds of the optimizer step per trained byte; 0 where the memory bandwidth is not known."""
    passes = OPTIMIZER_PASSES[problem.training.optimizer]
    bandwidth = [d.type.memory_bandwidth for d in problem.cluster.devices]
    return np.array([passes / b if b else 0.0 for b in bandwidth])
