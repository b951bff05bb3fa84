from __future__ import annotations

from chains import looped, placed_chain, random_stages
from drlpp.schedules import from_schedule, generate, to_schedule


def test_flat_arrays_and_schedules_convert_both_ways():
    for seed in range(20):
        placed = random_stages(seed)
        flat = generate("zero-bubble", placed)
        back = from_schedule(to_schedule(flat, placed.used), placed.used)
        assert all((a == b).all() for a, b in zip(flat, back, strict=True))


def test_a_rank_without_entry_has_no_actions():
    placed = placed_chain(looped(2, 1), 1)
    assert from_schedule({}, placed.used).offset.tolist() == [0, 0, 0]
