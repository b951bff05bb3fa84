import numpy as np
import pytest

from drlpp.cost import all_reduce_s
from drlpp.cost.problem_arrays import problem_arrays
from drlpp.cost.problem_times import problem_times
from drlpp.graph import Edge, Op, OpGraph
from drlpp.graph.op_graph import REFERENCE, OpTimes
from drlpp.planners.base import Budget
from drlpp.planners.bounds.group_row import SetRows, _held, exchange_s_per_byte
from drlpp.problem import PlanningProblem
from planner_cases import chain_problem, small_cluster, small_problem


def test_exchange_is_never_more_than_a_real_all_reduce():
    cluster = small_cluster([["mid"] * 3, ["mid"] * 2, ["mid"]])
    least = exchange_s_per_byte(cluster)
    assert (np.diff(least) >= 0).all()
    rng = np.random.default_rng(0)
    for _ in range(200):
        devices = rng.permutation(6)[: int(rng.integers(1, 7))].tolist()
        assert least[len(devices)] * 1e9 <= all_reduce_s(cluster, devices, 1e9) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_a_row_keeps_all_work(seed):
    problem = small_problem(seed, [["fast", "mid"], ["slow"]], num_ops=20)
    arrays = problem_arrays(problem)
    rows = SetRows(problem, arrays)
    for factor in (1.01, 1.3, 3.0):
        row, groups = rows.row(rows.work_s * factor, 0.0)
        inside = np.concatenate(groups)
        assert len(np.unique(inside)) == len(inside)
        assert row.seconds.sum() == pytest.approx(arrays.times.total_s[:, inside].sum())
        assert not row.satellite[0]
        assert row.moved_s[0] == 0.0


def test_little_to_spare_holds_ops_together():
    problem = small_problem(1, [["mid"] * 3], num_ops=12, chain=True)
    rows = SetRows(problem, problem_arrays(problem))
    tight, loose = rows.row(rows.work_s * 1.0001, 0.0)[0], rows.row(rows.work_s * 50, 0.0)[0]
    assert tight.num_groups < loose.num_groups == 12


def test_what_pairs_exchange_is_held_where_it_counts_most():
    main = np.zeros(6, dtype=np.bool_)
    beside, held = _held(main, {(0, 2): 1.0, (0, 4): 1.0, (2, 3): 0.5, (4, 5): 1.0}, {})
    assert held.tolist() == [1, 0, 0, 0, 1, -1]
    assert beside.tolist() == [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    beside, held = _held(main[:4], {(0, 3): 1.0, (1, 2): 3.0}, {})
    assert held.tolist() == [-1, 1, -1, -1]
    assert beside.tolist() == [0.0, 0.0, 3.0, 0.0]


def test_what_skips_groups_is_held_while_the_next_main_group_has_the_same_devices():
    satellite = np.array([False, True, False, False, False])
    beside, held = _held(satellite, {(0, 1): 1.0}, {(0, 3): 2.0})
    assert held.tolist() == [1, 0, 2, -1, -1]
    assert beside.tolist() == [0.0, 1.0, 0.0, 2.0, 0.0]
    beside, held = _held(satellite, {(0, 3): 2.0}, {})
    assert held.tolist() == [1, 0, 0, -1, -1]


def test_a_value_that_skips_groups_counts_where_it_arrives():
    """Two layers with a shortcut around the second one: the adding op has no work, and yet a place in the row."""
    time, none = OpTimes(0.1, 0.1, 0.1), OpTimes(0.0, 0.0, 0.0)
    times = {"first": time, "out": none, "second": time, "add": none, "third": time}
    ops = tuple(Op(name=n, kind="synthetic", output_bytes=5e6, times={REFERENCE: t}) for n, t in times.items())
    arcs = [("first", "out"), ("out", "second"), ("second", "add"), ("out", "add"), ("add", "third")]
    edges = tuple(Edge(src=a, dst=b, tensor=a) for a, b in arcs)
    graph = OpGraph(name="layers", ops=ops, edges=edges, tensor_bytes=dict.fromkeys(times, 5e6))
    problem = PlanningProblem.build(
        graph, small_cluster([["mid"] * 3], link="1GB/s"), num_microbatches=4, objective="steady-state"
    )
    rows = SetRows(problem, problem_arrays(problem))
    row, groups = rows.row(rows.work_s * 1.5, 0.01)
    assert [[graph.ops[i].name for i in ops] for ops in groups] == [["first"], ["out"], ["second"], ["add"], ["third"]]
    assert row.held.tolist() == [-1, 1, 2, -1, -1]
    assert row.beside_s.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.01, 0.0])
    plain, groups = rows.row(rows.work_s * 1.5, 0.01, with_skips=False)
    assert [[graph.ops[i].name for i in ops] for ops in groups] == [["first"], ["second"], ["third"]]
    assert (plain.held == -1).all()


def test_a_chain_beside_the_trunk_pays_for_every_cut():
    """A residual block whose trunk is too dear to move: the block is a chain of satellites of the trunk."""
    time = OpTimes(0.1, 0.1, 0.1)
    size = {"trunk": 1e8, "s1": 5e6, "s2": 5e6, "s3": 5e6, "add": 1e8}
    ops = tuple(Op(name=n, kind="synthetic", output_bytes=b, times={REFERENCE: time}) for n, b in size.items())
    arcs = [("trunk", "add"), ("trunk", "s1"), ("s1", "s2"), ("s2", "s3"), ("s3", "add")]
    edges = tuple(Edge(src=a, dst=b, tensor=a) for a, b in arcs)
    graph = OpGraph(name="block", ops=ops, edges=edges, tensor_bytes=size)
    problem = PlanningProblem.build(
        graph, small_cluster([["mid"] * 2], link="1GB/s"), num_microbatches=4, objective="steady-state"
    )
    rows = SetRows(problem, problem_arrays(problem))
    row, groups = rows.row(rows.work_s * 1.1, 0.0)
    assert [sorted(graph.ops[i].name for i in ops) for ops in groups] == [["add", "s1", "trunk"], ["s2"], ["s3"]]
    assert row.satellite.tolist() == [False, True, True]
    assert row.moved_s.tolist() == pytest.approx([0.0, 0.01, 0.01])
    assert row.beside_s.tolist() == pytest.approx([0.0, 0.0, 0.01])
    assert row.held.tolist() == [-1, 1, -1]


def test_less_than_the_work_is_never_enough():
    problem = chain_problem(6, [["mid"] * 2])
    rows = SetRows(problem, problem_arrays(problem))
    assert rows.find(rows.work_s * 0.999, 10, 0.0, Budget(10)) == []
    assert rows.find(rows.work_s * 1.001, 10, 0.0, Budget(np.inf))


def test_what_each_op_adds_makes_up_the_work():
    problem = small_problem(3, [["fast", "mid"], ["slow"]], num_ops=15)
    rows = SetRows(problem, problem_arrays(problem))
    assert rows.shared_out(problem_times(problem).total_s).sum() == pytest.approx(rows.work_s)
