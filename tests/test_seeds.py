"""Derived seeds are stable and differ where what they are for differs."""

from __future__ import annotations

from drlpp.seeds import derived_seed


def test_derived_seed_is_stable() -> None:
    assert derived_seed(1, "a") == derived_seed(1, "a")
    assert len({derived_seed(1, 2, 3), derived_seed(1, 23), derived_seed("1", 2, 3)}) == 3
    assert 0 <= derived_seed("x") < 2**63
