"""Atomic writes and reads with clear errors."""

import pytest

from drlpp.errors import InputError
from drlpp.files import decode, read_text, write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(path, "x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        write_atomically(tmp_path / "no" / "a.txt", "x")


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="cannot read thing"):
        read_text(tmp_path / "none", "thing")
    (tmp_path / "binary").write_bytes(b"\xff\xfd\x00")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_text(tmp_path / "binary", "thing")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_with_and_without_a_byte_order_mark_is_the_same(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_bytes("name: é\r\nx: 1\n".encode(encoding))
    assert read_text(path, "thing") == decode(path.read_bytes()) == "name: é\nx: 1\n"
