"""Even slots, and random changes of slots."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_problems import small_problem
from drlpp.agent.decisions.device_groups import Choices, Slot, can_be_divided, canonical, spell
from drlpp.agent.training.corpus import draw_large_problem
from drlpp.agent.training.slot_moves import changed_slots, even_slots
from drlpp.agent.view.features import problem_view
from drlpp.problem import SearchSpace

START = (Slot(((0, 2),)), Slot(((1, 1),)), Slot(((2, 1),)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_devices_are_never_used_twice(seed):
    rng = np.random.default_rng(seed)
    t = problem_view(small_problem()).tables
    slots = START
    for _ in range(10):
        slots = changed_slots(slots, t, rng)
        assert slots
        for slot in slots:
            assert [k for k, _ in slot.parts] == sorted({k for k, _ in slot.parts})
            assert all(count > 0 for _, count in slot.parts)
        used = np.zeros(t.num_classes, dtype=int)
        for slot in slots:
            for k, count in slot.parts:
                used[k] += count
        assert (used <= t.size).all()


def test_groups_of_other_types_stay_apart():
    drawn = (problem_view(draw_large_problem(np.random.default_rng([7, i]), "train")).tables for i in range(100))
    t = next(t for t in drawn if len(set(t.replica_kind.tolist())) > 2)
    rng = np.random.default_rng(0)
    found = even_slots(t)
    assert found
    for slots in [*found, *(changed_slots(found[i % len(found)], t, rng) for i in range(200))]:
        for slot in slots:
            assert len({int(t.replica_kind[k]) for k, _ in slot.parts}) == 1
    assert spell([(Slot(tuple((k, 1) for k in range(t.num_classes))),)], t, Choices.of(t)) == [None]


def test_many_slots_are_reached():
    rng = np.random.default_rng(0)
    t = problem_view(small_problem()).tables
    assert len({changed_slots(START, t, rng) for _ in range(300)}) > 40


def test_without_replication_every_slot_keeps_one_device():
    rng = np.random.default_rng(0)
    t = problem_view(dataclasses.replace(small_problem(), space=SearchSpace(parallelism=frozenset({"pp"})))).tables
    slots = (Slot(((0, 1),)), Slot(((1, 1),)))
    for _ in range(200):
        slots = changed_slots(slots, t, rng)
        assert all(slot.replicas == 1 for slot in slots)


def test_even_slots_take_all_devices():
    t = problem_view(small_problem()).tables
    found = even_slots(t)
    assert {1, 2, 3, 4} <= {len(slots) for slots in found} <= {1, 2, 3, 4, 5}
    for slots in found:
        assert sum(slot.replicas for slot in slots) == 5
    first_is_fast = dataclasses.replace(t, speed=np.array([100.0, 1.0, 1.0]))
    assert all(slot.parts for slots in even_slots(first_is_fast) for slot in slots)
    alone = dataclasses.replace(t, may_replicate=False)
    assert even_slots(alone) == []


def test_hosts_that_cannot_be_divided_move_whole():
    rng = np.random.default_rng(4)
    while can_be_divided(t := problem_view(draw_large_problem(rng, "train")).tables).all():
        pass
    choices = Choices.of(t)
    begun = even_slots(t)
    spelled = [x is not None for x in spell([canonical(slots, t) for slots in begun], t, choices)]
    assert sum(spelled) > len(spelled) / 4
    moved = [canonical(changed_slots(slots, t, rng), t) for slots in begun for _ in range(10)]
    spelled = [x is not None for x in spell(moved, t, choices)]
    assert sum(spelled) > len(spelled) / 4
