"""Atomic writes and reads with clear errors."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(Path("there") / "file.txt")
    write_atomically(link, "new")
    write_atomically(link, "newer")
    assert link.is_symlink()
    assert (tmp_path / "there" / "file.txt").read_text() == "newer"
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["file.txt"]


def test_pipes_are_written_in_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(pipe.read_bytes)
        write_atomically(pipe, b"x" * 300_000)
        assert reading.result(timeout=30) == b"x" * 300_000
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_devices_are_written_in_place(tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_atomically(link, "x")
    assert link.is_symlink()
    assert stat.S_ISCHR(link.stat().st_mode)
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device"):
        write_atomically(Path("/dev/full"), "x")


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_the_standard_output_under_its_name_goes_behind_what_was_printed(tmp_path, way):
    code = (
        "import sys; from pathlib import Path; from drlpp.files import write_atomically\n"
        "print('before', flush=True); write_atomically(Path('/dev/stdout'), 'written\\n'); print('after')"
    )
    if way == "pipe":
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "out").open("w") as file:
            subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
        printed = (tmp_path / "out").read_text()
    assert printed == "before\nwritten\nafter\n"
    assert Path("/dev/stdout").is_symlink()


def test_a_link_that_leads_round_is_named(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="cannot write .*: Too many levels of symbolic links"):
        write_atomically(tmp_path / "a", "x")
