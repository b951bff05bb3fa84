"""Atomic writes and reads with clear errors."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from drlpp.errors import InputError
from drlpp.files import check_writable, decode, is_file, read_text, write_atomically


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


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path), lambda path: path.symlink_to("no/a")])
def test_what_cannot_be_written_is_known_early(tmp_path, make):
    path = tmp_path / "out"
    make(path)
    with pytest.raises(InputError, match="cannot write"):
        check_writable(path)


def test_what_can_be_written_passes_the_early_check(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("new")
    for path in (tmp_path / "there", tmp_path / "new", tmp_path / "link", Path("/dev/null"), Path("/dev/stdout")):
        check_writable(path)


def test_a_folder_that_is_closed_to_this_user(tmp_path, monkeypatch):
    """Root, as tests in containers are, may write everywhere: the system's answer is replaced."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != tmp_path and real(path, how))
    with pytest.raises(InputError, match="this user may not write it"):
        check_writable(tmp_path / "plan.json")
    (tmp_path / "there.json").write_text("old")
    check_writable(tmp_path / "there.json")


def test_a_file_that_cannot_be_replaced_is_written_in_place(tmp_path, monkeypatch):
    """As a file that is mounted by itself into a container."""
    path = tmp_path / "plan.json"
    path.write_text("the old text is longer")
    number = path.stat().st_ino

    def busy(self, target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))

    monkeypatch.setattr(Path, "replace", busy)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_ino == number
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_a_folder_that_is_read_only_is_written_in_place(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    path.write_text("the old text is longer")

    def refuse(**kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(InputError, match="Read-only file system"):
        write_atomically(tmp_path / "other.json", "new")


def test_a_name_that_no_file_can_have_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    assert is_file(tmp_path / "file")
    assert not is_file(tmp_path)
    assert not is_file("a" * 300)
