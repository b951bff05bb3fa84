from __future__ import annotations

import dataclasses

import pytest

from drlpp.errors import PlanError
from drlpp.export.pipelines import (
    as_pipeline,
    check_divisions,
    check_looped,
    check_no_tied_parameters,
    recompute_everywhere,
)
from drlpp.graph import Edge, OpGraph
from drlpp.plan import Sharding, StageSettings, parse_action, validate
from exported_models import capture_language_model, cluster, divided, plan_by_labels, plan_by_modules


def test_a_chain_on_three_devices(layered_plan):
    pipeline = as_pipeline(layered_plan, "X")
    assert pipeline.copies == ((2, 0, 1),)
    assert pipeline.rank_of_stage == (0, 1, 2)
    assert pipeline.actions[1] == layered_plan.schedule[0]
    assert pipeline.num_microbatches == 8


def test_equal_replicas_are_copies_with_renumbered_microbatches(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)])
    pipeline = as_pipeline(plan, "X")
    assert pipeline.copies == ((0, 2), (1, 3))
    assert pipeline.num_microbatches == 4
    assert sorted(a.microbatch for a in pipeline.actions[0] if a.kind == "F") == [0, 1, 2, 3]


def test_branches_are_refused(branches):
    plan = plan_by_modules(branches, ["left", "right", "add"], [(0,), (1,), (2,), (3,)])
    with pytest.raises(
        PlanError, match=r"X sends a stage's output to the next stage only, .* stage 0 sends .* stage 2"
    ):
        as_pipeline(plan, "X")


def test_unequal_shares_are_refused(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)])
    first = dataclasses.replace(plan.stages[0], settings=StageSettings(shares=(2, 1)))
    with pytest.raises(PlanError, match=r"X gives all replicas as many micro-batches, but stage 0 gives .* \[2, 1\]"):
        as_pipeline(dataclasses.replace(plan, stages=(first, plan.stages[1])), "X")


def test_unequal_replicas_are_refused(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2,)])
    with pytest.raises(PlanError, match="stage 0 has 2 replicas and stage 1 1 .unequal replicas"):
        as_pipeline(plan, "X")


def test_copies_must_get_as_many_microbatches(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], num_microbatches=7)
    with pytest.raises(PlanError, match="there are 7: plan with a multiple of 2"):
        as_pipeline(plan, "X")


def test_copies_must_be_apart(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (1, 0)])
    with pytest.raises(PlanError, match="keeps data-parallel copies apart"):
        as_pipeline(plan, "X")


def test_copies_must_run_in_one_order(language_model):
    plan = plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)], num_microbatches=4)
    order = tuple(map(parse_action, ("0F1", "0F3", "0B3", "0B1")))
    odd = dataclasses.replace(plan, schedule={**plan.schedule, 1: order})
    last = tuple(map(parse_action, ("1F1", "1F3", "1B3", "1B1")))
    odd = dataclasses.replace(odd, schedule={**odd.schedule, 3: last})
    validate(odd)
    with pytest.raises(PlanError, match=r"devices \[1, 3\] have another order than devices \[0, 2\]"):
        as_pipeline(odd, "X")


def test_graphs_with_their_own_backward_operators_are_refused(language_model):
    ops = language_model.ops
    edge = Edge(src=ops[-1].name, dst=ops[0].name, tensor=language_model.edges[-1].tensor, phase="backward")
    graph = OpGraph(**{**_fields(language_model), "edges": (*language_model.edges, edge)})
    plan = plan_by_modules(graph, ["layers.3"], [(0,), (1,)])
    with pytest.raises(PlanError, match="lists its own backward operators"):
        as_pipeline(plan, "X")


def test_tensors_without_gradient_may_skip_stages(language_model):
    ops = language_model.ops
    sizes = {**language_model.tensor_bytes, "mask": 4.0}
    edge = Edge(src=ops[0].name, dst=ops[-1].name, tensor="mask", requires_grad=False)
    changed = {"edges": (*language_model.edges, edge), "tensor_bytes": sizes}
    graph = OpGraph(**{**_fields(language_model), **changed})
    as_pipeline(plan_by_modules(graph, ["layers.1", "layers.3"], [(0,), (1,), (2,)]), "X")


def _fields(graph: OpGraph) -> dict[str, object]:
    return {f.name: getattr(graph, f.name) for f in dataclasses.fields(graph)}


def test_loops(language_model):
    looped = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (0,), (1,)])
    check_looped(as_pipeline(looped, "X"), "X")
    folded = plan_by_modules(language_model, ["layers.1", "layers.2", "layers.4"], [(0,), (1,), (1,), (0,)])
    with pytest.raises(PlanError, match="stage 2 is on rank 1"):
        check_looped(as_pipeline(folded, "X"), "X")
    short = plan_by_modules(language_model, ["layers.1", "layers.2"], [(0,), (1,), (0,)])
    with pytest.raises(PlanError, match="3 stages are on 2 ranks"):
        check_looped(as_pipeline(short, "X"), "X")


def test_tied_parameters(layered_plan):
    check_no_tied_parameters(layered_plan, "X")
    tied = plan_by_modules(capture_language_model(shared=True), ["layers.3"], [(0,), (1,)])
    with pytest.raises(PlanError, match="stages 0, 1 share some"):
        check_no_tied_parameters(tied, "X")


def test_recomputation_is_for_all_or_none(language_model):
    devices = [(0,), (1,)]
    assert not recompute_everywhere(plan_by_modules(language_model, ["layers.3"], devices), "X")
    both = plan_by_modules(language_model, ["layers.3"], devices, recompute=(0, 1))
    assert recompute_everywhere(both, "X")
    one = plan_by_modules(language_model, ["layers.3"], devices, recompute=(1,))
    with pytest.raises(PlanError, match=r"the plan in stages \[1\] only"):
        recompute_everywhere(one, "X")


def test_one_stage_on_all_devices_is_data_parallelism(language_model):
    plan = plan_by_labels(language_model, [0] * language_model.num_ops, [tuple(range(4))], on=cluster(1, 4))
    pipeline = as_pipeline(plan, "X")
    assert pipeline.copies == ((0,), (1,), (2,), (3,))
    assert (pipeline.num_ranks, pipeline.num_stages, pipeline.num_microbatches) == (1, 1, 2)


def test_groups_are_the_ranks_of_copies(language_model):
    plan = divided(plan_by_modules(language_model, ["layers.3"], [(0, 1), (2, 3)]), 2)
    pipeline = as_pipeline(plan, "X")
    assert pipeline.groups == (((0, 1), (4, 5)), ((2, 3), (6, 7)))
    assert pipeline.copies == ((0, 1, 4, 5), (2, 3, 6, 7))
    assert (pipeline.num_copies, pipeline.num_ranks, pipeline.num_microbatches) == (2, 2, 4)


def test_what_an_engine_cannot_divide_is_refused(language_model):
    whole = plan_by_modules(language_model, ["layers.3"], [(0,), (1,)])
    plan = divided(whole, 2, sequence=True)
    assert check_divisions(plan, "X", can=("tp", "sp")) == Sharding(tensor=2, sequence=True)
    with pytest.raises(PlanError, match="X cannot divide ops, but stage 0 divides its ops over 2 devices"):
        check_divisions(plan, "X")
    with pytest.raises(PlanError, match="X keeps activations between divided ops whole, but stage 0 divides them"):
        check_divisions(plan, "X", can=("tp",))
    last = dataclasses.replace(whole.stages[1], replicas=((2,),))
    mixed = dataclasses.replace(plan, stages=(plan.stages[0], last))
    with pytest.raises(
        PlanError, match="X divides all stages alike, .* degree 2 with sequence .* stage 1 tensor-parallel degree 1"
    ):
        check_divisions(mixed, "X", can=("tp", "sp"))


def test_divided_states_need_replicas_or_shared_parameters(language_model):
    alone, copies = (plan_by_modules(language_model, ["layers.3"], d) for d in ([(0,), (1,)], [(0, 1), (2, 3)]))
    zero1 = dataclasses.replace(alone.training, zero1=True)
    assert check_divisions(dataclasses.replace(alone, training=zero1), "X") == Sharding()
    check_divisions(dataclasses.replace(copies, training=zero1), "X", can=("zero1",))
    tied = plan_by_modules(capture_language_model(shared=True), ["layers.3"], [(0,), (1,)])
    for plan in (copies, tied):
        with pytest.raises(PlanError, match=r"X cannot divide optimizer states .*ZeRO-1"):
            check_divisions(dataclasses.replace(plan, training=zero1), "X")
