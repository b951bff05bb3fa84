"""Writing files so that a reader sees the old file or the whole new one, never a part; reading text."""

from __future__ import annotations

import codecs
import os
import tempfile
from pathlib import Path

from drlpp.errors import InputError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content` to `path` through a temporary file in the same folder.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}: give a path in an existing, writable folder"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
