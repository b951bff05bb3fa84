"""Who holds which tensors, by the stages that read them."""

import dataclasses

from chain_plans import chain_plan
from drlpp.runtime.holdings import Holdings, several


def plan_on(*replicas):
    plan = chain_plan()
    stages = (dataclasses.replace(s, replicas=r) for s, r in zip(plan.stages, replicas, strict=True))
    return dataclasses.replace(plan, stages=tuple(stages))


def test_replicas_and_stages_that_share_a_tensor_hold_it():
    held = Holdings(plan_on(((0,), (1,)), ((1,),)), {"w": (0,), "tied": (0, 1), "b": (1,)}, {"unread": 1})
    assert held.holders("tied") == held.holders("w") == (0, 1)
    assert held.sums == held.copies == {"w": ((0, 1),), "tied": ((0, 1),), "b": ((1,),)}
    assert several(held.sums) == {"w": [(0, 1)], "tied": [(0, 1)]}
    assert held.summed_with("b", 0) == ()
    assert held.answering("unread") == (1,)
    assert (held.place(1), held.place(None)) == (0, 0)


def test_replicas_that_divide_states_have_an_owner():
    held = Holdings(plan_on(((0,), (1,)), ((1,),)), {"w": (0,)}, {}, owners={("w", (0, 1)): 1})
    assert held.answering("w") == (1,)
    assert [held.changes("w", device) for device in (0, 1)] == [False, True]
