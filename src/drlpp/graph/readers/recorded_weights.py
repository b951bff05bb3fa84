"""Which tensors of a recorded call are its weights, by their places among its arguments.

An accumulated gradient tells of a trained parameter. Frozen parameters have none, and none is accumulated where a
training loop takes its gradients from ``torch.autograd.grad`` or ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Sequence

from drlpp.graph.readers.recorded import DTYPES, RecordedCall, RecordedTensor

_AFTER_DATA = (
    *(f"aten::conv{d}d" for d in (1, 2, 3)),
    *(f"aten::conv_transpose{d}d" for d in (1, 2, 3)),
    "aten::linear",
    "aten::batch_norm",
    "aten::layer_norm",
    "aten::group_norm",
    "aten::instance_norm",
    "aten::rms_norm",
    "aten::prelu",
)
_PLACES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_AFTER_DATA, (1, 2)),
    "aten::embedding": (0,),
    "aten::embedding_bag": (0,),
    "aten::addmm": (0, 2),
    "aten::bilinear": (2, 3),
}
"""Operator -> places of its weights, among its tensors."""
_CELLS = {"aten::lstm": 3, "aten::gru": 2, "aten::rnn_tanh": 2, "aten::rnn_relu": 2}
"""Operator -> place from which on all tensors are weights."""


def weights_of(call: RecordedCall) -> tuple[RecordedTensor, ...]:
    """The tensors at the places of weights; computed weights and parameters alike."""
    if call.name in _CELLS:
        found: Sequence[RecordedTensor] = call.inputs[_CELLS[call.name] :]
    else:
        found = [call.inputs[k] for k in _PLACES.get(call.name, ()) if k < len(call.inputs)]
    return tuple(t for t in found if t.dtype in DTYPES and t.bytes > 0)


def data_of(call: RecordedCall) -> tuple[RecordedTensor, ...]:
    """The tensors at the other places; all if there is no other."""
    if call.name in _CELLS:
        return call.inputs[: _CELLS[call.name]]
    places = _PLACES.get(call.name, ())
    return tuple(t for k, t in enumerate(call.inputs) if k not in places) or call.inputs
