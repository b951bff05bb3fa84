from __future__ import annotations

import numpy as np
import pytest

from chains import cluster_of
from drlpp.cluster import Cluster, DeviceType, Host, Link
from drlpp.cost import place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.errors import ScheduleError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan.settings import of_columns
from drlpp.problem import PlanningProblem


def chain_costs(num_stages=2, num_devices=3, recompute=(), **kwargs):
    problem = PlanningProblem.build(chain_graph(num_stages, **kwargs), cluster_of(num_devices))
    return stage_costs(
        problem, np.arange(num_stages), num_stages, of_columns({"recompute": recompute})
    ), problem.cluster


def test_unused_devices_are_left_out():
    costs, cluster = chain_costs(num_devices=9)
    placed = place_stages(costs, cluster, [(7,), (2, 7)], 4)
    assert placed.used.tolist() == [2, 7]
    assert placed.slot_device.tolist() == [1, 0, 1]
    assert placed.slot_off.tolist() == [0, 1, 3]


def test_replicas_take_turns_by_their_shares():
    costs, cluster = chain_costs()
    placed = place_stages(costs, cluster, [(0,), (2, 1)], 7, [(), (1, 2)])
    assert placed.round_off.tolist() == [0, 1, 4]
    assert placed.round_slot.tolist() == [0, 2, 1, 2]
    assert placed.turn_off.tolist() == [0, 1, 2, 4]
    assert placed.turn.tolist() == [0, 1, 0, 2]
    assert placed.slot_microbatches.tolist() == [7, 2, 5]
    with pytest.raises(ScheduleError, match="shares are given for 1 stages: there are 2"):
        place_stages(costs, cluster, [(0,), (2, 1)], 7, [(1, 2)])


def test_recomputation_lengthens_the_backward_actions_and_holds_less():
    costs, cluster = chain_costs(recompute=[False, True], tensor_bytes=8.0)
    placed = place_stages(costs, cluster, [(0,), (1,)], 4)
    assert placed.action_s * 1e3 == pytest.approx(np.array([[1, 1], [2, 3], [1, 2], [1, 1]]))
    assert placed.held_bytes.tolist() == [8.0, 8.0]
    assert placed.again_bytes.tolist() == [0.0, 8.0]


def test_channels_are_distinct_within_a_host_and_hosts_are_numbered():
    device = DeviceType(name="d", memory_bytes=1)
    link = Link(bandwidth=1.0)
    sizes = [1, 3, 2]
    hosts = tuple(Host(name=f"h{i}", devices=("d",) * n, link=link, network=link) for i, n in enumerate(sizes))
    cluster = Cluster("c", (device,), hosts)
    problem = PlanningProblem.build(chain_graph(4), cluster)
    costs = stage_costs(problem, np.arange(4), 4)
    placed = place_stages(costs, cluster, [(2,), (5,), (4,), (1,)], 1)
    assert placed.used.tolist() == [1, 2, 4, 5]
    assert placed.host.tolist() == [0, 0, 1, 1]
    assert placed.local.tolist() == [0, 1, 0, 1]
    assert placed.channel_width == 2
    assert placed.ports_shared == 1


@pytest.mark.parametrize(
    ("devices", "num_microbatches", "message"),
    [
        ([(0,)], 1, "devices are given for 1 stages: there are 2"),
        ([(0,), ()], 1, "stage 1 has no device"),
        ([(0,), (3,)], 1, r"devices 0\.\.3: cluster 'c' has devices 0\.\.2"),
        ([(0,), (1,)], 0, "num_microbatches is 0"),
    ],
)
def test_bad_placements(devices, num_microbatches, message):
    costs, cluster = chain_costs()
    with pytest.raises(ScheduleError, match=message):
        place_stages(costs, cluster, devices, num_microbatches)


def test_a_flag_for_each_stage():
    with pytest.raises(ScheduleError, match="settings are given for 1 stages: there are 2"):
        chain_costs(recompute=(True,))
