"""Writing files so that a reader sees the old file or the whole new one, never a part; reading text.

What is not a regular file (a device, a pipe, the standard output under its name in /dev) is written in place, and so is
a file that cannot be replaced (mounted by itself into a container, or in a folder that is read-only). A link is
followed: the file that it leads to is replaced, never the link.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import tempfile
from pathlib import Path

from drlpp.errors import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content` to `path`: through a temporary file in the same folder, or in place if it is no regular file.

    Raises:
        InputError: the folder does not exist or cannot be written, or what is there cannot.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None  # also a link to a file that is not there yet
    except OSError as error:
        raise _unwritable(path, error) from error
    if found is not None:
        stream = next((fd for fd in (1, 2) if _is_stream(fd, found)), None)
        if stream is not None or not stat.S_ISREG(found.st_mode):
            _write_in_place(path, data, stream)
            return
    _replace(path, Path(os.path.realpath(path)), data)


def is_file(path: Path | str) -> bool:
    """There is a file of this name. What cannot be one, or is where this user may not look, is none."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def check_writable(path: Path) -> None:
    """Fails early, before long work, if a file could not be written. Raises InputError."""
    target = Path(os.path.realpath(path))
    try:
        is_folder, is_there, is_file = target.is_dir(), target.exists(), target.is_file()
        has_folder = target.parent.is_dir()
    except OSError as error:  # a folder on the way that may not be entered
        raise _unwritable(path, error) from error
    if is_folder or not has_folder or target.is_symlink():  # links in a circle stay links
        raise InputError(f"cannot write {path}: give the path of a file in an existing folder")
    writable = is_there and os.access(target, os.W_OK)
    replaceable = (is_file or not is_there) and os.access(target.parent, os.W_OK | os.X_OK)
    if not writable and not replaceable:
        raise InputError(f"cannot write {path}: this user may not write it: give a path that can be written")


def _replace(path: Path, target: Path, data: bytes) -> None:
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        if target.is_file() and os.access(target, os.W_OK):
            _write_in_place(target, data, None)
            return
        raise InputError(
            f"cannot write {path}: {error.strerror}: give a path in an existing, writable folder"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.errno != errno.EBUSY:
            raise _unwritable(path, error) from error
        _write_in_place(target, data, None)  # the file is mounted by itself
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_stream(fd: int, found: os.stat_result) -> bool:
    """The standard stream `fd` of this process is the file `found`."""
    try:
        return os.path.samestat(os.fstat(fd), found)
    except OSError:
        return False  # closed


def _write_in_place(path: Path, data: bytes, stream: int | None) -> None:
    """Args: `stream`: the open standard stream that the path means, if it means one."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC) if stream is None else os.dup(stream)
        with os.fdopen(handle, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror}: give a path that can be written")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_text(path: Path, what: str) -> str:
    """Reads a text file. Raises InputError that names `what` was to be read, and why it could not be."""
    try:
        return decode(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not text in UTF-8: byte {error.start}") from error
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror}: check the path") from error


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 if a byte-order mark says so. Raises UnicodeDecodeError."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")
