"""Recorded calls and tensors of a training step: what the readers of PyTorch's two kinds of traces hand over.

`recorded_step` finds the training step in them, `recorded_graph` makes the operator graph.
"""

from __future__ import annotations

import dataclasses

ELEMENT_BYTES = {
    "float": 4,
    "double": 8,
    "c10::Half": 2,
    "c10::BFloat16": 2,
    "long int": 8,
    "long": 8,
    "int": 4,
    "short": 2,
    "short int": 2,
    "signed char": 1,
    "unsigned char": 1,
    "bool": 1,
    "c10::Float8_e4m3fn": 1,
    "c10::Float8_e5m2": 1,
    "c10::complex<float>": 8,
    "c10::complex<double>": 16,
}
"""Bytes of an element by its type, as the traces name it."""
DTYPES = {"float": "float32", "double": "float64", "c10::Half": "float16", "c10::BFloat16": "bfloat16"}
"""Types that have gradients, by their names in the traces, and ours."""
ENGINE = "autograd::engine::evaluate_function: "
_ACCUMULATE = "AccumulateGrad"
_OPTIMIZER = "Optimizer."


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTensor:
    """A tensor that a call read or wrote.

    Attributes:
        dtype: key of `ELEMENT_BYTES`; others count as four bytes.
        key, storage: identity of the tensor and of its memory; -1 where the trace does not tell.
    """

    shape: tuple[int, ...]
    dtype: str
    key: int = -1
    storage: int = -1

    @property
    def bytes(self) -> float:
        size = float(ELEMENT_BYTES.get(self.dtype, 4))
        for extent in self.shape:
            size *= extent
        return size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call in a trace.

    Attributes:
        id: of the trace, so that a person finds it again.
        parent: position of the call that it is nested in; -1 for none.
        sequence: autograd sequence number; -1 for none.
        seconds: measured, with everything nested in it; None if the trace has no times.
        module: path of the module that called it, if known.
        written: storages of the inputs that it changes in place, if known.
    """

    id: int
    name: str
    parent: int
    thread: int
    sequence: int = -1
    inputs: tuple[RecordedTensor, ...] = ()
    outputs: tuple[RecordedTensor, ...] = ()
    seconds: float | None = None
    module: str = ""
    written: frozenset[int] = frozenset()

    @property
    def is_engine(self) -> bool:
        """The autograd engine runs a function here."""
        return self.name.startswith(ENGINE)

    @property
    def function(self) -> str:
        """The autograd function that the engine runs here."""
        return self.name.removeprefix(ENGINE)

    @property
    def accumulates(self) -> bool:
        """It adds a gradient to that of a parameter."""
        return self.name.endswith(_ACCUMULATE) and not self.is_engine

    @property
    def is_optimizer(self) -> bool:
        """PyTorch's marker around a step (or the zeroing of gradients) of an optimizer."""
        return self.name.startswith(_OPTIMIZER)

    @property
    def is_operator(self) -> bool:
        """It is an operator such as ``aten::linear`` (and not a marker or an annotation)."""
        namespace, _, operator = self.name.partition("::")
        return namespace.isidentifier() and operator.isidentifier() and "Backward" not in operator
