"""The scheduler's decisions as an environment."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_problems import small_problem
from drlpp.agent.decisions.device_groups import (
    NUM_CHOICE_FEATURES,
    Choices,
    Slot,
    SlotState,
    canonical,
    replica_classes,
    slot_devices,
    spell,
)
from drlpp.agent.training.corpus import draw_large_problem, draw_problem
from drlpp.agent.training.imitation import anchor_assignments
from drlpp.agent.training.slot_moves import changed_slots
from drlpp.agent.view.features import problem_view
from drlpp.sim import Evaluator


def play(view, batch, rng):
    choices = Choices.of(view.tables)
    state = SlotState(view.tables, view.profile, choices, batch)
    while not state.done.all():
        start, end = state.windows()
        features = state.features(start, end)
        assert features.shape == (batch, choices.num, NUM_CHOICE_FEATURES)
        mask = state.mask()
        assert mask.any(axis=1).all()
        assert np.isfinite(features[mask]).all()
        assert ((start[mask] >= 0) & (end[mask] <= 1 + 1e-9)).all()
        state.step(np.array([rng.choice(np.flatnonzero(m)) for m in mask]))
    return state


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_device_serves_at_most_one_slot(seed):
    rng = np.random.default_rng(seed)
    draw = draw_problem if rng.random() < 0.7 else draw_large_problem
    view = problem_view(draw(rng, rng.choice(["train", "validation", "test"])))
    total = view.problem.cluster.num_devices
    for slots in play(view, 6, rng).slots():
        devices = [d for group in slot_devices(slots, view.tables) for d in group]
        assert devices
        assert len(set(devices)) == len(devices)
        assert set(devices) <= set(range(total))
        for slot in slots:
            classes = [k for k, _ in slot.parts]
            assert classes == sorted(set(classes))
            assert len(set(view.tables.replica_kind[classes].tolist())) == 1


def test_groups_of_other_types_are_never_replicas_of_one_stage():
    """Nothing can sum their gradients: of every kind of choice only such are left as the evaluator accepts."""
    drawn = (draw_large_problem(np.random.default_rng([7, i]), "train") for i in range(100))
    mixed = (p for p in drawn if len(set(problem_view(p).tables.replica_kind.tolist())) > 1)
    for problem in itertools.islice(mixed, 3):
        view = problem_view(dataclasses.replace(problem, cluster=_roomy(problem.cluster)))
        evaluator = Evaluator(view.problem)
        several = 0
        for assignment in anchor_assignments(view, play(view, 24, np.random.default_rng(0)).slots()):
            several += max(len(devices) for devices in assignment.devices) > 1
            assert evaluator.evaluate(assignment, ("1f1b",)).feasible
        assert several > 12


def _roomy(cluster):
    types = tuple(dataclasses.replace(t, memory_bytes=t.memory_bytes * 10**4) for t in cluster.device_types)
    return dataclasses.replace(cluster, device_types=types)


def test_all_placements_of_a_small_cluster_are_reached():
    """Device classes of sizes 2, 1, 2: every ordered family of disjoint sets of devices, up to equal devices."""
    view = problem_view(small_problem())
    seen = Counter()
    rng = np.random.default_rng(0)
    for _ in range(60):
        seen.update(tuple(s.parts for s in slots) for slots in play(view, 64, rng).slots())
    first = {slots[0] for slots in seen}
    every = {
        tuple((k, n) for k, n in enumerate((a, b, c)) if n)
        for a in range(3)
        for b in range(2)
        for c in range(3)
        if a + b + c
    }
    assert first == every
    assert max(len(slots) for slots in seen) == 5


def test_no_replicas_where_the_graph_forbids_them(monkeypatch):
    problem = small_problem()
    monkeypatch.setattr(type(problem), "may_replicate", property(lambda self: False))
    view = problem_view(problem)
    for slots in play(view, 16, np.random.default_rng(0)).slots():
        assert all(slot.replicas == 1 for slot in slots)


def test_bundles_take_what_is_left():
    view = problem_view(small_problem())
    choices = Choices.of(view.tables)
    state = SlotState(view.tables, view.profile, choices, 1)
    everything = choices.num - len(choices.bundles) + int((choices.bundles == view.tables.size).all(axis=1).argmax())
    one_fast = int(np.flatnonzero((choices.device_class == 0) & (choices.count == 1) & ~choices.joins)[0])
    state.step(np.array([one_fast]))
    assert state.mask()[0, everything]
    state.step(np.array([everything]))
    assert [slot.parts for slot in state.slots()[0]] == [((0, 1),), ((0, 1), (1, 1), (2, 2))]
    assert state.done.all()


def part_of_every_host(choices, numbers):
    return choices.num - len(choices.bundles) + [tuple(b) for b in choices.bundles.tolist()].index(numbers)


def test_a_part_of_the_devices_of_every_host_is_one_choice():
    """Hosts of 4 and 2 like devices: half of both is one choice, until it is all that is left."""
    problem = small_problem()
    a, b = problem.cluster.hosts
    hosts = dataclasses.replace(a, devices=("fast",) * 4), dataclasses.replace(b, devices=("fast",) * 2)
    view = problem_view(dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, hosts=hosts)))
    choices = Choices.of(view.tables)
    half, everything = part_of_every_host(choices, (2, 1)), part_of_every_host(choices, (4, 2))
    np.testing.assert_allclose(choices.mix[half], [2 / 3, 1 / 3])
    state = SlotState(view.tables, view.profile, choices, 1)
    assert state.mask()[0, [half, everything]].all()
    state.step(np.array([half]))
    assert state.mask()[0, [half, everything]].tolist() == [False, True]
    state.step(np.array([everything]))
    both = (Slot(((0, 2), (1, 1))),) * 2
    assert state.slots() == [both]
    assert spell([both], view.tables, choices) == [[half, everything]]


def test_the_window_of_a_slot_is_its_share_of_the_speed():
    view = problem_view(small_problem())
    t = view.tables
    choices = Choices.of(t)
    state = SlotState(t, view.profile, choices, 1)
    both_fast = int(np.flatnonzero((choices.device_class == 0) & (choices.count == 2) & ~choices.joins)[0])
    start, end = state.windows()
    np.testing.assert_allclose([start[0, both_fast], end[0, both_fast]], [0.0, 2 / 3.2])


def test_faster_replicas_come_first():
    t = problem_view(small_problem()).tables
    assert slot_devices((Slot(((1, 1), (2, 1))), Slot(((0, 1),))), t) == ((2, 3), (0,))
    assert slot_devices((Slot(((0, 1), (1, 1))),), t) == ((0, 2),)
    flipped = dataclasses.replace(t, speed=t.speed[::-1].copy())
    assert slot_devices((Slot(((0, 1), (2, 1))),), flipped) == ((3, 0),)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_spelled_slots_lead_back_to_themselves(seed):
    rng = np.random.default_rng(seed)
    view = problem_view((draw_problem if rng.random() < 0.7 else draw_large_problem)(rng, "train"))
    choices = Choices.of(view.tables)
    for slots in play(view, 4, rng).slots():
        slots = canonical(slots, view.tables)
        (spelled,) = spell([slots], view.tables, choices)
        if spelled is None:
            continue
        state = SlotState(view.tables, view.profile, choices, 1)
        for choice in spelled:
            assert state.done[0] or state.mask()[0, choice]
            state.step(np.array([choice]))
        assert state.slots() == [slots]


def test_of_hosts_that_are_alike_the_first_is_used_first():
    """Hosts a, b, a, a: their classes are fast 0 and slow 1, slow 2, fast 3 and slow 4, fast 5 and slow 6."""
    problem = small_problem()
    fast, slow = (problem.cluster.hosts[h] for h in (0, 1))
    hosts = tuple(dataclasses.replace(h, name=str(i)) for i, h in enumerate((fast, slow, fast, fast)))
    view = problem_view(dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, hosts=hosts)))
    t, rng = view.tables, np.random.default_rng(0)
    drawn = {slots for _ in range(40) for slots in play(view, 64, rng).slots()}
    alone = {slots[0].parts for slots in drawn if len(slots[0].parts) == 1}
    assert alone == {((0, 1),), ((0, 2),), ((1, 1),), ((2, 1),), ((2, 2),)}
    assert any(k > 4 for slots in drawn for slot in slots for k, _ in slot.parts)
    assert canonical((Slot(((5, 2),)), Slot(((0, 1), (2, 1))), Slot(((4, 1),))), t) == (
        Slot(((0, 2),)),
        Slot(((2, 1), (3, 1))),
        Slot(((6, 1),)),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_renamed_hosts_make_equal_plans(seed):
    rng = np.random.default_rng(seed)
    view = problem_view(draw_problem(rng, rng.choice(["train", "validation", "test"])))
    t = view.tables

    def looks(slots):
        """Per slot its devices' types by host, however the hosts are called."""
        out = []
        for slot in slots:
            hosts = {}
            for k, count in slot.parts:
                hosts.setdefault(int(t.host[k]), []).append((t.speed[k], t.memory[k], t.port_bandwidth[k], count))
            out.append(sorted(map(sorted, hosts.values())))
        return out

    for slots in play(view, 4, rng).slots():
        other = canonical(changed_slots(slots, t, rng), t)
        assert canonical(other, t) == other
        assert looks(canonical(slots, t)) == looks(slots)


def many_hosts(number):
    """So many hosts that are alike, with two fast devices and a slow one each."""
    problem = small_problem()
    hosts = tuple(dataclasses.replace(problem.cluster.hosts[0], name=f"h{i}") for i in range(number))
    return problem_view(dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, hosts=hosts)))


def test_hosts_that_are_alike_are_taken_by_their_number():
    view = many_hosts(96)
    t = view.tables
    choices = Choices.of(t)
    slots = tuple(
        Slot(tuple((k, int(t.size[k])) for k in range(first, first + 2 * number)))
        for first, number in ((0, 32), (64, 24), (112, 40))
    )
    ((*spelled, last),) = spell([slots], t, choices)
    assert [int(choices.hosts[i]) for i in spelled] == [32, 24]  # as many decisions as stages
    assert choices.whole[last - choices.first_bundle]
    state = SlotState(t, view.profile, choices, 1)
    for choice in (*spelled, last):
        assert state.mask()[0, choice]
        state.step(np.array([choice]))
    assert state.done[0]
    assert state.slots() == [slots]


def test_all_devices_of_a_type_on_some_hosts_are_a_choice():
    t = many_hosts(20).tables
    choices = Choices.of(t)
    fast = tuple((2 * h, 2) for h in range(11))
    ((eight, three, end),) = spell([(Slot(fast[:8]), Slot(fast[8:]))], t, choices)
    assert [int(choices.hosts[i]) for i in (eight, three, end)] == [8, 3, 0]


def test_of_many_hosts_only_the_first_few_are_divided():
    t = many_hosts(20).tables
    choices = Choices.of(t)
    assert spell([tuple(Slot(((2 * h, 1),)) for h in range(8))], t, choices) != [None]
    assert spell([tuple(Slot(((2 * h, 1),)) for h in range(20))], t, choices) == [None]
    assert choices.num < 150


def test_counts_that_no_choice_has_cannot_be_spelled(view):
    view = problem_view(small_problem())
    assert spell([(Slot(((0, 9),)),)], view.tables, Choices.of(view.tables)) == [None]


def test_selected_episodes_go_on_apart(view):
    choices = Choices.of(view.tables)
    state = SlotState(view.tables, view.profile, choices, 1)
    state.select(np.array([0, 0]))
    first = np.flatnonzero(state.mask()[0])
    state.step(first[:2])
    assert state.slots()[0] != state.slots()[1]
    state.select(np.array([1]))
    assert len(state.slots()) == len(state.mask()) == 1


def test_equally_fast_replicas_follow_their_senders():
    """Classes 1 and 2 are slow and on different hosts: the one on the sender's host comes first."""
    t = problem_view(small_problem()).tables
    assert replica_classes(Slot(((1, 1), (2, 1))), [0, 2], t) == [1, 2]
    assert replica_classes(Slot(((1, 1), (2, 1))), [2, 0], t) == [2, 1]
    assert replica_classes(Slot(((0, 1), (1, 1), (2, 1))), [2], t) == [0, 2, 1]
