"""Cuts: the dynamic programme against all cuts, and the choices that the policy gets."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from agent_problems import small_problem
from drlpp.agent.decisions.device_groups import Slot, slot_devices
from drlpp.agent.decisions.stage_cuts import (
    CUT_OFFSETS,
    StageQuestion,
    cut_choices,
    judge_cuts,
    make_cuts,
    prefixes,
    slot_arrays,
    solve_cuts,
    stage_cost,
    stage_memory,
)
from drlpp.agent.view.features import problem_view
from drlpp.cost.stage_costs import stage_costs
from drlpp.plan.assignment import Assignment
from drlpp.planners.space.shares import shared
from drlpp.problem import SearchSpace
from drlpp.sim import Evaluator

SLOTS = (Slot(((0, 2),)), Slot(((1, 1),)), Slot(((2, 2),)))


def setting(seed, num_ops=12, slots=SLOTS, memory_bytes=10**10, shares=True):
    problem = small_problem(seed, num_ops, memory_bytes)
    view = problem_view(dataclasses.replace(problem, space=SearchSpace(shares=shares)))
    t = view.tables
    arrays = slot_arrays([slots], t, view.problem)
    return view, arrays, prefixes(np.arange(num_ops)[None], arrays, t)


def cost(arrays, p, s, i, j, after=0.0, split=False):
    return stage_cost(arrays, p, StageQuestion(0, s, i, j, after, split))


def costs_of(arrays, p, cuts, split=False):
    """What each stage costs, from the last one on, so that each knows the passes of those after it."""
    costs, after = [], 0.0
    for s in range(len(cuts) - 2, -1, -1):
        costs.append(cost(arrays, p, s, int(cuts[s]), int(cuts[s + 1]), after, split))
        after += costs[-1].pass_s
    return costs[::-1]


def estimate(costs, split=False):
    """Pace, sum of what is waited for, and the latest all-reduce."""
    done, late = 0.0, 0.0
    for cost in costs:
        late = max(late, cost.reduce_s - (0.0 if split else 2 / 3 * done))
        done += cost.pass_s
    return max(cost.pace_s for cost in costs) + sum(cost.waited_s for cost in costs) + late


@pytest.mark.parametrize("memory_bytes", [10**10, 60 * 10**6])
@pytest.mark.parametrize("seed", range(6))
def test_the_estimate_is_about_the_smallest_of_all_cuts(seed, memory_bytes):
    view, arrays, p = setting(seed, memory_bytes=memory_bytes)
    n, _m = view.tables.num_ops, view.tables.microbatches
    best = solve_cuts(arrays, p, view.tables)
    whole, split = (
        min(estimate(costs_of(arrays, p, (0, *inner, n), s), s) for inner in itertools.combinations(range(1, n), 2))
        for s in (False, True)
    )
    found = costs_of(arrays, p, best.cuts[0], bool(best.split[0]))
    assert best.value[0] == pytest.approx(estimate(found, bool(best.split[0])))
    assert best.pace[0] == pytest.approx(max(cost.pace_s for cost in found))
    least = split if best.split[0] else whole
    assert least - 1e-12 <= best.value[0] <= 1.02 * least  # one label per state: nearly exact
    if abs(split * 1.05 / whole - 1.0) > 0.02:
        assert best.split[0] == (split * 1.05 < whole)


def test_split_backward_passes_are_waited_for_in_part():
    """The gradients of weights are work, and memory waits for them, but no other stage does."""
    _view, arrays, p = setting(3)
    whole, split = (costs_of(arrays, p, (0, 4, 8, 12), s) for s in (False, True))
    for s, (a, b) in enumerate(zip(whole, split, strict=True)):
        assert a._replace(waited_s=0.0) == b._replace(waited_s=0.0)
        assert a.waited_s == a.pass_s
        assert b.waited_s == pytest.approx(a.pass_s - (p.weights[0, s, 4 * s + 4] - p.weights[0, s, 4 * s]))
    assert estimate(split, True) < estimate(whole)


def test_without_gradients_of_weights_there_is_nothing_to_split():
    view, arrays, p = setting(3)
    none = dataclasses.replace(view.tables, weight_grad_s=np.zeros_like(view.tables.weight_grad_s))
    assert not solve_cuts(arrays, p, none).split.any()


def test_compute_and_memory_of_a_stage_are_the_simulators():
    view, arrays, p = setting(3)
    problem, _m = view.problem, view.tables.microbatches
    labels = np.repeat([0, 1, 2], 4)
    assignment = Assignment(labels, ((0, 1), (2,), (3, 4)))
    costs = stage_costs(problem, labels, 3)
    for s, device in enumerate((0, 2, 3)):
        compute = p.time[0, s, 4 * s + 4] - p.time[0, s, 4 * s]
        assert compute == pytest.approx(costs.forward_s[s, device] + costs.backward_s[s, device])
    peak = Evaluator(problem).evaluate(assignment, ["1f1b"]).peak_memory_bytes
    fraction = [cost.memory for cost in costs_of(arrays, p, (0, 4, 8, 12))]
    for s, device in enumerate((0, 2, 3)):  # received tensors make the difference
        assert fraction[s] * 1e10 == pytest.approx(peak[device], rel=0.5)


def test_memory_bounds_the_micro_batches_in_flight():
    """Where the middle stage fits one micro-batch at a time, each of its rounds is a whole round trip."""
    view, arrays, p = setting(3, slots=(Slot(((0, 1),)), Slot(((1, 1),)), Slot(((2, 1),))))
    m = view.tables.microbatches
    after = cost(arrays, p, 2, 8, 12).pass_s
    quick = cost(arrays, p, 1, 4, 8, after)
    needed = quick.memory_of_one * arrays.memory_bytes[0, 1]
    arrays.memory_bytes[0, 1] = needed * 1.0001
    slow = cost(arrays, p, 1, 4, 8, after)
    assert slow.memory_of_one <= 1.0 < slow.memory
    assert slow.gain < 0  # to recompute, it would have to keep what it received beside the rest
    assert slow.pace_s == pytest.approx((m - 1) * (quick.pass_s + after))
    assert slow.pace_s > quick.pace_s
    arrays.memory_bytes[0, 1] = needed * 0.99
    assert cost(arrays, p, 1, 4, 8, after).pace_s > slow.pace_s


def test_given_cuts_are_judged_as_the_best_ones_are():
    view, arrays, p = setting(2)
    found = solve_cuts(arrays, p, view.tables)
    again = judge_cuts(arrays, p, view.tables, found.cuts)
    assert (again.value, again.pace) == (found.value, found.pace)
    costs = costs_of(arrays, p, found.cuts[0])
    assert again.after[0].tolist() == pytest.approx([costs[1].pass_s + costs[2].pass_s, costs[2].pass_s, 0.0])
    other = found.cuts + np.array([0, 1, 1, 0])
    assert judge_cuts(arrays, p, view.tables, other).value[0] >= found.value[0] * 0.98


def test_choices_leave_every_stage_an_op():
    view, arrays, p = setting(1, num_ops=4)
    anchors = solve_cuts(arrays, p, view.tables)
    for first in range(len(CUT_OFFSETS)):
        cuts = np.zeros_like(anchors.cuts)
        cuts[0, 3] = 4
        features, mask = cut_choices(1, arrays, p, anchors, cuts)
        assert np.isfinite(features).all()
        if not mask[0, first]:
            continue
        make_cuts(1, arrays, anchors.cuts, cuts, np.array([first]), 4)
        _, mask = cut_choices(2, arrays, p, anchors, cuts)
        for second in np.flatnonzero(mask[0]):
            make_cuts(2, arrays, anchors.cuts, cuts, np.array([second]), 4)
            assert 0 < cuts[0, 1] < cuts[0, 2] < 4


def test_choices_that_exceed_the_memory_are_masked_where_others_fit():
    view, arrays, p = setting(0, memory_bytes=60 * 10**6)
    anchors = solve_cuts(arrays, p, view.tables)
    cuts = np.zeros_like(anchors.cuts)
    cuts[0, 3] = view.tables.num_ops
    features, mask = cut_choices(1, arrays, p, anchors, cuts)
    fits = features[0, :, 7] <= 1.0
    if (fits & mask[0]).any():
        assert not (mask[0] & ~fits).any()


def test_padding_has_one_choice():
    view = problem_view(small_problem())
    t = view.tables
    arrays = slot_arrays([SLOTS, SLOTS[:1]], t, view.problem)
    p = prefixes(np.tile(np.arange(t.num_ops), (2, 1)), arrays, t)
    anchors = solve_cuts(arrays, p, t)
    cuts = np.zeros_like(anchors.cuts)
    cuts[:, 0], cuts[0, 3], cuts[1, 1] = 0, t.num_ops, t.num_ops
    _, mask = cut_choices(1, arrays, p, anchors, cuts)
    assert mask[1].tolist() == [True] + [False] * (len(CUT_OFFSETS) - 1)
    make_cuts(1, arrays, anchors.cuts, cuts, np.array([0, 0]), t.num_ops)
    assert cuts[1].tolist() == [0, t.num_ops, 0, 0]


def test_replicas_share_micro_batches_in_whole_rounds():
    _, arrays, _ = setting(0)
    assert arrays.rounds[0].tolist() == [math.ceil(8 / r) for r in (2, 1, 2)]


def steady_setting(slots, shares=True):
    problem = dataclasses.replace(small_problem(5, 12), objective="steady-state", space=SearchSpace(shares=shares))
    view = problem_view(problem)
    arrays = slot_arrays([slots], view.tables, view.problem)
    return view, arrays, prefixes(np.arange(12)[None], arrays, view.tables)


def test_replicas_share_the_steady_state_evenly():
    _, arrays, _ = steady_setting((Slot(((0, 2), (1, 1))), Slot(((2, 2),))), shares=False)
    assert arrays.rounds[0].tolist() == [8 / 3, 8 / 2]
    assert arrays.slow_class[0, 0] == 1


def test_unequal_replicas_share_by_their_speed():
    """A device of class 1 has 0.4 of the speed of one of class 0, so of eight micro-batches it runs one."""
    _, arrays, _ = setting(0, slots=(Slot(((0, 2), (1, 1))),))
    assert (arrays.slow_class[0, 0], arrays.rounds[0, 0]) == (0, 4)
    view, arrays, _ = steady_setting((Slot(((0, 2), (1, 1))),))
    speed = view.tables.speed / view.tables.speed[0]
    assert arrays.rounds[0, 0] / speed[arrays.slow_class[0, 0]] == pytest.approx(8 / 2.4, rel=0.03)


@pytest.mark.parametrize("slots", [SLOTS, (Slot(((2, 2),)), Slot(((0, 2), (1, 1))))])
@pytest.mark.parametrize("shares", [True, False])
def test_the_pace_of_the_steady_state_is_the_simulators(slots, shares):
    view, arrays, p = steady_setting(slots, shares)
    found = solve_cuts(arrays, p, view.tables)
    labels = np.searchsorted(found.cuts[0, 1 : len(slots)], np.arange(12), side="right")
    assignment = shared(view.problem, Assignment(labels, slot_devices(slots, view.tables)))
    loads = Evaluator(view.problem).evaluate(assignment)
    # what skips a stage is charged to every boundary that it crosses, and latencies are left out
    assert found.value[0] == pytest.approx(loads.bottleneck_s, rel=0.1)


@pytest.mark.parametrize("places", [1, 5, 8, 40, None])
def test_cuts_at_some_places_only(places):
    view, arrays, p = setting(4, num_ops=40)
    few, all_ = solve_cuts(arrays, p, view.tables, places), solve_cuts(arrays, p, view.tables)
    stride = 1 if places is None else min(40 // places, 40 // len(SLOTS))
    assert not (few.cuts[0, 1:3] % stride).any()
    assert (np.diff(few.cuts[0, :4]) > 0).all()
    assert few.value[0] >= all_.value[0] * 0.98
    if stride == 1:
        assert few.cuts.tolist() == all_.cuts.tolist()


def test_micro_batches_in_flight_are_a_mean_over_the_replicas():
    _, arrays, _ = setting(0, slots=(Slot(((0, 2),)), Slot(((1, 1),)), Slot(((2, 1),))))
    assert arrays.in_flight[0].tolist() == [1.5, 2.0, 1.0]


def test_a_slow_replica_that_comes_last_runs_fewer_micro_batches():
    """Classes 0 (fast, two devices) and 1 (slow): three replicas, eight micro-batches: 3, 3 and 2 of them."""
    _, arrays, _ = setting(0, slots=(Slot(((0, 2), (1, 1))),), shares=False)
    assert arrays.slow_class[0, 0] == 1
    assert arrays.rounds[0, 0] == 2


def test_recomputation_needs_less_memory():
    view, arrays, p = setting(2)
    found = solve_cuts(arrays, p, view.tables)
    memory = stage_memory(arrays, p, found.split, found.cuts)
    assert memory[0, 0, 1] <= memory[0, 0, 0]
    assert (memory[..., 2] < 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_slots": np.array([4])}, r"num_slots has the element 4: it must be in 1\.\.3"),
        ({"rounds": np.ones((2, 3))}, "rows of the slots has 2 elements: it needs 1"),
    ],
)
def test_slots_whose_arrays_do_not_fit_are_refused(change, message):
    _, arrays, p = setting(0)
    with pytest.raises(ValueError, match=message):
        cost(dataclasses.replace(arrays, **change), p, 0, 0, 1)


def test_a_stage_that_is_not_there_is_refused():
    _, arrays, p = setting(0)
    with pytest.raises(ValueError, match=r"slot has the element 3: it must be in 0\.\.2"):
        cost(arrays, p, 3, 0, 1)


def test_replicas_divide_optimizer_states():
    """ZeRO-1: what a replica spares, and the seconds of the step, are those of the simulator."""
    problem = small_problem(3, 12)
    labels = np.repeat([0, 1, 2], 4)
    assignment = Assignment(labels, ((0, 1), (2,), (3, 4)))
    memory = []
    for names in ({"pp", "dp"}, {"pp", "dp", "zero1"}):
        view = problem_view(dataclasses.replace(problem.with_parallelism(names), space=problem.space))
        arrays = slot_arrays([SLOTS], view.tables, view.problem)
        p = prefixes(np.arange(12)[None], arrays, view.tables)
        peak = Evaluator(view.problem).evaluate(assignment, ["1f1b"]).peak_memory_bytes
        memory.append((peak, [c.memory_of_one * 1e10 for c in costs_of(arrays, p, (0, 4, 8, 12))], arrays))
    (whole, estimated, a), (divided, estimated_divided, b) = memory
    assert whole[2] == divided[2]
    assert estimated[1] == estimated_divided[1]
    for s, device in ((0, 0), (2, 3)):
        assert whole[device] > divided[device]
        assert estimated[s] - estimated_divided[s] == pytest.approx(whole[device] - divided[device])
    assert (a.spared == 0.0).all()
    assert (b.spared[0, [0, 2]] > 0.0).all()


def test_passes_take_what_the_host_needs():
    """What a pass takes besides its ops counts once forth and once back, whatever the stage."""
    view, arrays, p = setting(3)
    slow = dataclasses.replace(view.tables, besides_s=view.tables.besides_s + 1e-3)
    later = slot_arrays([SLOTS], slow, view.problem)
    for (i, j), s in (((0, 4), 0), ((4, 8), 1)):
        before, after = cost(arrays, p, s, i, j), cost(later, p, s, i, j)
        assert after.pass_s == pytest.approx(before.pass_s + 1e-3)
        assert after.waited_s == pytest.approx(before.waited_s + 1e-3)
