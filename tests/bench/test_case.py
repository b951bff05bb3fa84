"""Cases and suites."""

import pytest

from drlpp.bench.case import Case, Suite, load_model_graph
from drlpp.errors import CaptureError, InputError
from drlpp.graph import save_graph
from drlpp.graph.generate.synthetic import chain_graph


def test_a_case_makes_its_problem():
    case = Case("a", "generated:dag?ops=20", "local-2", 5, "steady-state", "adamw")
    problem = case.problem()
    assert (problem.graph.num_ops, problem.cluster.num_devices) == (20, 2)
    assert (problem.training.num_microbatches, problem.training.optimizer) == (5, "adamw")
    assert problem.objective == "steady-state"
    assert Case(**case.to_dict()) == case


def test_models_come_from_files_too(tmp_path):
    save_graph(chain_graph(4), tmp_path / "graph.json")
    assert load_model_graph(str(tmp_path / "graph.json")).num_ops == 4
    with pytest.raises(CaptureError, match="does not name a model"):
        load_model_graph(str(tmp_path / "other.json"))


@pytest.mark.parametrize(
    ("cases", "message"),
    [((), "has no cases"), ((Case("a", "m", "c"), Case("a", "n", "c")), "names 'a' twice")],
)
def test_bad_suites_are_refused(cases, message):
    with pytest.raises(InputError, match=message):
        Suite("s", "", cases)


def test_a_suite_at_a_precision():
    suite = Suite("s", "", (Case("a", "generated:dag?ops=20", "local-2"),))
    (case,) = suite.at_precision("bf16").cases
    assert case.problem().training.precision == "bf16"
    assert Case(**case.to_dict()) == case
    assert suite.at_precision(None) is suite
    assert "precision" not in suite.cases[0].to_dict()  # results of before keep their keys
