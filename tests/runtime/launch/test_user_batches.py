"""Batches that a function of the user yields."""

import itertools

import pytest

from drlpp.errors import InputError
from drlpp.runtime.launch.user_batches import user_batches

CODE = """
import random, torch

def two():
    for _ in range(2):
        yield {"x": torch.rand(1).item() + random.random()}

def none():
    return []

def number():
    return 3

def fails():
    yield {"x": 1}
    raise KeyError("y")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.py"
    path.write_text(CODE)
    return path


def first(file, number, *, name="two", seed=5, skipped=0):
    return list(itertools.islice(user_batches(f"{file}:{name}", seed, skipped), number))


def test_another_epoch_follows_and_the_seed_decides(file):
    batches = first(file, 5)
    assert len(batches) == 5
    assert batches == first(file, 5) != first(file, 5, seed=6)
    assert first(file, 2, skipped=3) == batches[3:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "yields no batches: yield at least one"),
        ("number", "returns a int: it must yield batches"),
        ("fails", "raises KeyError: 'y': it must yield batches"),
        ("not-a-name", "write path/to/file.py:function"),
    ],
)
def test_what_yields_no_batches_is_refused(file, name, message):
    with pytest.raises(InputError, match=message):
        first(file, 9, name=name)
