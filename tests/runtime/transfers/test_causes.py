"""The first rank that fails says why, and those that wait for it say the same."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from drlpp.errors import ExecutionError, InputError
from drlpp.runtime.transfers import causes
from drlpp.runtime.transfers.causes import explained, tell_cause, with_cause

GONE = ExecutionError("the connection was closed")


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dist.HashStore:
    """The store of a process group, as its rank 3 sees it."""
    made = dist.HashStore()
    monkeypatch.setattr(causes, "default_store", lambda: made)
    monkeypatch.setattr(causes, "_GRACE_S", 0.0)
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    return made


def test_the_first_cause_is_told() -> None:
    tell_cause(ValueError("a  loss\nthat is NaN"))
    tell_cause(ValueError("another one"))
    assert str(with_cause(GONE)) == "rank 3 failed: ValueError: a loss that is NaN"


def test_a_long_cause_is_cut() -> None:
    tell_cause(ValueError("x" * 1000))
    assert len(str(with_cause(GONE))) < 400


def test_an_error_that_nobody_explains_stays() -> None:
    assert with_cause(GONE) is GONE


def test_a_failure_within_is_told_and_goes_on() -> None:
    with pytest.raises(InputError, match="bad batch"), explained():
        raise InputError("bad batch")
    with pytest.raises(ExecutionError, match="^rank 3 failed: InputError: bad batch$") as info, explained():
        raise GONE
    assert info.value.__cause__ is GONE


def test_the_store_may_be_gone_with_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> dist.HashStore:
        raise RuntimeError("no store")

    monkeypatch.setattr(causes, "default_store", gone)
    tell_cause(ValueError("x"))
    assert with_cause(GONE) is GONE
