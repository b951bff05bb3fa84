"""Classes of op kinds that the encoder tells apart. Coarse on purpose: weights must serve kinds never seen."""

from __future__ import annotations

KIND_CLASSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("attention", "sdpa", "softmax")),
    ("recurrent", ("lstm", "gru", "rnn")),
    ("embedding", ("embedding", "gather", "index_select")),
    ("convolution", ("conv",)),
    ("matrix product", ("linear", "matmul", "addmm", "mm", "einsum", "dense")),
    ("normalisation", ("norm",)),
    ("pooling", ("pool", "interpolate", "upsample", "mean", "sum")),
    ("join", ("cat", "stack", "add", "concat")),
    ("loss", ("loss", "nll", "cross_entropy")),
    ("activation", ("relu", "gelu", "silu", "sigmoid", "tanh", "swish", "dropout", "mul")),
)
"""Name and keywords of each class, tried in order on the lower-case kind; the class after the last is "other"."""

NUM_KIND_CLASSES = len(KIND_CLASSES) + 1


def kind_class(kind: str) -> int:
    """Index of the class of an op kind, for example ``aten.conv2d.default`` or ``Linear``."""
    text = kind.lower()
    for i, (_, keywords) in enumerate(KIND_CLASSES):
        if any(keyword in text for keyword in keywords):
            return i
    return len(KIND_CLASSES)
