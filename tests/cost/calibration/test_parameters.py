"""Where each unknown of a calibration is."""

from drlpp.cost.calibration.parameters import INSIDE, NETWORK, PRIOR, unknowns
from planner_cases import small_problem


def test_each_factor_is_a_sum_of_unknowns():
    problem = small_problem(0, [["fast", "mid"], ["slow", "mid"]], num_ops=6)
    found = unknowns(problem.graph, problem.cluster)
    assert sorted(found.position.values()) == list(range(len(found.position)))
    assert len(found.prior_deviation) == len(found.position)
    assert found.prior_deviation[found.at("model")] == PRIOR["model"]
    forward = found.positions_of_op_factor(1, 3, 0, backward=False)
    assert set(forward) < set(found.positions_of_op_factor(1, 3, 0, backward=True)) | {found.at("class", 0, 0)}
    assert found.class_of_op.shape == (6,)


def test_hosts_with_equal_links_share_them():
    problem = small_problem(0, [["fast", "mid"], ["slow", "mid"]], num_ops=6)
    found = unknowns(problem.graph, problem.cluster)
    assert found.link_kind[INSIDE, 0] == found.link_kind[INSIDE, 1] != found.link_kind[NETWORK, 0]
    own = {found.positions_of_wire(INSIDE, host)[-1] for host in (0, 1)}
    assert len(own) == 2


def test_one_host_has_no_network():
    problem = small_problem(0, [["fast", "mid"]], num_ops=6)
    assert set(unknowns(problem.graph, problem.cluster).link_kind) == {(INSIDE, 0)}
