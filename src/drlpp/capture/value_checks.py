"""Checks on the values of tensors in ``forward``, such as ``assert x.isfinite().all()`` and ``if loss.isnan(): raise``.

A trace has no values, so it goes the way on which the check finds nothing. What the check asked is not in the graph;
the caller says so. A branch that does more than to raise, warn, print or log is no check, nor is one whose error is
caught around it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from drlpp.capture.recording import Calls, replaced
from drlpp.torch_private import TensorBase

Place = tuple[int | None, int | None]
"""Line and column of code."""
_TELLING = {"print", "warn", "warning", "info", "debug", "error", "exception", "critical", "log"}


@contextmanager
def checks_that_find_nothing(calls: Calls) -> Iterator[None]:
    """Within it, a traced tensor whose truth only a check asks for has the value that lets it pass.

    Args:
        calls: of the trace; its `checks` gets a line for each.
    """

    def answering(original: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def asked(tensor: torch.Tensor) -> Any:
            if calls.traces([tensor]) and tensor.numel() == 1:
                frame = inspect.currentframe()
                found = _passing(_caller(frame))
                if found is not None:
                    calls.checks[found[1]] = None
                    return found[0]
            return original(tensor)

        return asked

    truth = answering(TensorBase.item)

    def item(tensor: torch.Tensor) -> Any:
        return truth(tensor) if tensor.dtype is torch.bool else TensorBase.item(tensor)

    with (
        replaced(torch.Tensor, "__bool__", answering(TensorBase.__bool__)),
        replaced(torch.Tensor, "item", item),
    ):
        yield


def _caller(frame: FrameType | None) -> FrameType | None:
    """The frame that called into this file."""
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _passing(frame: FrameType | None) -> tuple[bool, str] | None:
    """The truth with which the check passes that a frame is at, and where it is; None if it is at no check."""
    if frame is None:
        return None
    file = frame.f_code.co_filename
    places = [(line, column) for line, _, column, _ in frame.f_code.co_positions()][: frame.f_lasti // 2 + 1]
    for check in _checks(file):
        if (check.lineno, check.col_offset) != places[-1] and not _covers(check.test, places[-1]):
            continue
        # Python 3.11 places the jump at the statement: what was computed before it is what it asks about.
        asked = next((p for p in reversed(places) if _covers(check.test, p)), None)
        parts = _parts(check.test, isinstance(check, ast.Assert))
        truth = next((t for part, t in parts if _covers(part, asked)), None)
        if truth is not None:
            line = check.lineno
            return truth, f"{Path(file).name}:{line} `{linecache.getline(file, line).strip()}`"
    return None


@functools.cache
def _checks(file: str) -> list[ast.Assert | ast.If]:
    """The statements of a file that only check."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return []
    caught = {
        id(n) for t in ast.walk(tree) if isinstance(t, ast.Try) and t.handlers for s in t.body for n in ast.walk(s)
    }
    return [
        node
        for node in ast.walk(tree)
        if id(node) not in caught
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.If) and not node.orelse and all(map(_only_tells, node.body)))
    ]


def _only_tells(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return True
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    function = statement.value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in _TELLING


def _parts(test: ast.expr, wanted: bool | None) -> Iterator[tuple[ast.expr, bool | None]]:
    """The parts of a condition, each with the truth that it has to have; None where the others decide too."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _parts(test.operand, None if wanted is None else not wanted)
    elif isinstance(test, ast.BoolOp):
        for part in test.values:
            yield from _parts(part, wanted if isinstance(test.op, ast.And) is wanted else None)
    else:
        yield test, wanted


def _covers(node: ast.expr, place: Place | None) -> bool:
    if place is None or place[0] is None or place[1] is None:
        return False
    line, column = place
    begin, end = (node.lineno, node.col_offset), (node.end_lineno or line, node.end_col_offset or column)
    return begin <= (line, column) <= end
