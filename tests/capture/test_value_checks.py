"""Checks on values are passed by, and told; branches are not."""

from __future__ import annotations

import pytest
import torch

from checking_models import (
    Asserts,
    Branches,
    Catches,
    Checked,
    ComparesNumbers,
    EitherWay,
    Otherwise,
    Raises,
    Warns,
)
from drlpp.capture import capture_module


@pytest.mark.parametrize(("kind", "lines"), [(Asserts, 1), (Raises, 2), (Warns, 1)])
def test_a_check_is_passed_by(kind: type[Checked], lines: int, caplog: pytest.LogCaptureFixture) -> None:
    captured = capture_module(kind(), torch.randn(2, 4))
    assert captured.graph.num_ops > 2
    told = [r.getMessage() for r in caplog.records if "is not made in training" in r.getMessage()]
    assert len(told) == lines
    assert all("the check at checking_models.py:" in line for line in told)


@pytest.mark.parametrize("kind", [Branches, Otherwise, EitherWay, Catches, ComparesNumbers])
def test_what_does_more_than_check_is_kept_whole(kind: type[Checked]) -> None:
    assert capture_module(kind(), torch.randn(2, 4)).graph.num_ops == 1
