"""Rows as flat arrays, against lists of lists."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drlpp.graph.csr import grouped, numbered, offset_rows, offsets


def rows_of(offset, flat):
    return [flat[a:b].tolist() for a, b in itertools.pairwise(offset)]


def test_offsets_begin_at_nothing():
    assert offsets([]).tolist() == [0]
    assert offsets([2, 0, 3]).tolist() == [0, 2, 2, 5]


@given(st.lists(st.lists(st.integers(0, 9))))
def test_rows_come_back(rows):
    assert rows_of(*offset_rows(rows)) == rows


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99))))
def test_items_of_a_row_keep_their_order(pairs):
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    wanted = [[item for row, item in pairs if row == r] for r in range(5)]
    assert rows_of(*grouped(table[:, 0], table[:, 1], 5)) == wanted


@given(st.lists(st.integers(-3, 3)))
def test_keys_are_numbered_by_first_appearance(keys):
    first, number = numbered(np.array(keys, dtype=np.int64))
    distinct = list(dict.fromkeys(keys))
    assert [keys[i] for i in first] == distinct
    assert [distinct[k] for k in number] == keys
