"""`drlpp whatif`."""

import json

import pytest

from cluster_files import TWO_UNEQUAL
from problem_files import planned, problem_files


@pytest.fixture
def files(tmp_path):
    return problem_files(tmp_path)


def test_whatif_prints_a_ranking(files, capsys):
    assert planned(files, "whatif") == 0
    captured = capsys.readouterr()
    assert "twice the micro-batches" in captured.out
    assert "learning rate" in captured.err
    assert planned(files, "whatif", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["as_it_is"]["status"] == "ok"
    speeds = [row["throughput_samples_per_s"] for row in answer["changes"]]
    assert speeds == sorted(speeds, reverse=True)


def test_whatif_without_any_plan_is_status_3(files, capsys):
    (files / "cluster.yaml").write_text(TWO_UNEQUAL.replace("16GB", "1kB"))
    assert planned(files, "whatif", "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["as_it_is"]["status"] == "infeasible"
    assert "no plan fits, with or without a change" in captured.err
