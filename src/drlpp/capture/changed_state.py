"""Which tensors that outlive a forward pass the operators of a graph change in it, and how.

The statistics of batch norms, counters, moving averages, queues. Replicas of a stage can combine what only shrinks and
grows; everything else needs one device that sees the micro-batches in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx

from drlpp.capture.groups import is_op
from drlpp.capture.user_call import STATISTICS, TRAINING_FLAGS


def needs_order(nodes: Sequence[fx.Node], params: Mapping[str, object]) -> bool:
    """Whether nodes change state in a way that replicas cannot combine.

    Args:
        params: names of parameters, which never can be combined.
    """
    changed = changed_memory(nodes)
    return any(n.op == "get_attr" and (decay is None or str(n.target) in params) for n, decay in changed.items())


def changed_memory(nodes: Sequence[fx.Node]) -> Mapping[fx.Node, float | None]:
    """What some nodes write and did not make: batch norm's statistics, and targets of in-place ops.

    Returns:
        Each with the factor by which one pass shrinks what was there before; None if what is there after a pass depends
        on it in another way, or is read by others.
    """
    changed: dict[fx.Node, float | None] = {}
    updates: dict[fx.Node, set[fx.Node]] = defaultdict(set)
    for node in nodes:
        for value in written_values(node):
            if is_op(memory := memory_of(value)):
                continue
            before = changed.get(memory, 1.0)
            factor = _decay(node) if value is memory or value in updates[memory] else None
            changed[memory] = None if before is None or factor is None else before * factor
            updates[memory].add(node)
    for memory, writers in updates.items():
        if _is_read(memory, writers):  # what was there before decides over more than what is there after
            changed[memory] = None
    return changed


def written_values(node: fx.Node) -> Iterator[fx.Node]:
    """The values that a node writes: statistics of a norm, and targets of in-place ops."""
    schema = getattr(node.target, "_schema", None)
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        statistics = argument.name in STATISTICS and _updates_statistics(node)
        if isinstance(value, fx.Node) and (
            statistics or (argument.alias_info is not None and argument.alias_info.is_write)
        ):
            yield value


def _is_read(memory: fx.Node, updates: set[fx.Node]) -> bool:
    """Whether anything but updates reads a buffer, or what updates made of it."""
    shown = [memory]
    while shown:
        for user in shown.pop().users:
            if user.target is torch.ops.aten.batch_norm.default and user in updates:
                continue
            if not is_op(user) or memory_of(user) is not memory:
                return True
            shown.append(user)
    return False


def _updates_statistics(node: fx.Node) -> bool:
    """Whether a norm changes its running statistics; in eval mode it reads them only."""
    schema = node.target._schema  # type: ignore[union-attr]
    return any(
        bool(node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value))
        for i, argument in enumerate(schema.arguments)
        if argument.name in TRAINING_FLAGS
    )


def _decay(node: fx.Node) -> float | None:
    """Factor of `changed_memory` for one op that writes a buffer."""
    if node.target is torch.ops.aten.batch_norm.default:
        training, momentum = node.args[5:7]
        return 1.0 - float(momentum) if training else 1.0  # type: ignore[arg-type]
    if node.target is torch.ops.aten.add_.Tensor and isinstance(node.args[1], (int, float)):
        return 1.0
    return None


def memory_of(node: fx.Node) -> fx.Node:
    """The node that made the memory which a node's value is a view of."""
    while True:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.arguments or schema.arguments[0].alias_info is None or not node.args:
            return node
        base = node.args[0]
        if not isinstance(base, fx.Node):
            return node
        node = base
