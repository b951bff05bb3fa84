"""The results file."""

import pytest

from drlpp.bench.results import append_row, read_rows
from drlpp.errors import InputError

ROW = {"case": {"name": "a"}, "planner": "dp", "seed": 0, "settings": {}}


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    for seed in range(3):
        append_row(path, ROW | {"seed": seed})
    assert [row["seed"] for row in read_rows(path)] == [0, 1, 2]


@pytest.mark.parametrize("rest", ['{"case": ', "x" * 100_000])
def test_a_row_that_was_cut_off_does_not_count_and_is_removed(tmp_path, rest):
    path = tmp_path / "rows.jsonl"
    append_row(path, ROW)
    with path.open("a") as file:
        file.write(rest)
    assert len(read_rows(path)) == 1
    append_row(path, ROW | {"seed": 1})
    assert [row["seed"] for row in read_rows(path)] == [0, 1]


def test_a_file_without_any_whole_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"case"')
    append_row(path, ROW)
    assert len(read_rows(path)) == 1


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"planner": "dp"}'])
def test_other_files_are_refused(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    append_row(path, ROW)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 2 is not a row of a benchmark"):
        read_rows(path)


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        append_row(tmp_path / "nowhere" / "rows.jsonl", ROW)
