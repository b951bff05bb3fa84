from __future__ import annotations

import dataclasses
from pathlib import Path

from drlpp.graph.generate.synthetic import chain_graph
from drlpp.runtime.adapt.adopted import adopted_plan, record_adopted
from plan_cases import local_cluster, make_plan


def test_the_plan_that_ran_last_is_taken_by_runs_of_the_same_kind(tmp_path: Path) -> None:
    graph = chain_graph(6, forward_s=1e-3)
    asked = make_plan(graph, [0, 0, 0, 1, 1, 1], [(0,), (1,)], num_microbatches=2, num_devices=2)
    other = make_plan(graph, [0, 0, 0, 0, 1, 1], [(1,), (0,)], num_microbatches=2, num_devices=2)
    store = tmp_path / "checkpoints"
    assert adopted_plan(store, asked) is None
    record_adopted(store, other)
    found = adopted_plan(store, asked)
    assert found is not None
    assert found.stages == other.stages
    longer = dataclasses.replace(asked, training=dataclasses.replace(asked.training, num_microbatches=4))
    assert adopted_plan(store, longer) is None
    more = dataclasses.replace(asked, cluster=local_cluster(3))
    assert adopted_plan(store, more) is None
    changed = make_plan(chain_graph(7, forward_s=1e-3), [0, 0, 0, 1, 1, 1, 1], [(0,), (1,)], num_microbatches=2)
    assert adopted_plan(store, changed) is None
