"""The compiled part of drlpp, `library`: what it is built from stands in src/native, and its types in _native.pyi.

In a checkout the library must be built from the sources next to it: results of code that is no longer there would go
unnoticed otherwise. So the build writes a hash of its sources into the library, and this module compares it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from drlpp.errors import InstallationError

__all__ = ["SOURCES", "check_sources", "library", "source_hash"]

SOURCES = Path(__file__).parents[1] / "native"
"""The C++ sources, in a checkout; an installed package has none there."""
_FIX = "run `make native` (it needs a C++17 compiler)"


def source_hash(folder: Path) -> str:
    """The hash of all C++ sources in a folder, as setup.py computes it: names and contents in order."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".cpp", ".h"):
            sha.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def check_sources(built_from: str, folder: Path) -> None:
    """Checks that a library was built from the sources in a folder. Raises InstallationError if it was not."""
    if (folder / "module.cpp").is_file() and source_hash(folder) != built_from:
        raise InstallationError(f"the compiled part of drlpp was not built from the sources in {folder}: {_FIX}")


try:
    from drlpp import _native as library
except ImportError as error:
    raise InstallationError(f"the compiled part of drlpp cannot be loaded ({error}): {_FIX}") from error
check_sources(library.SOURCE_HASH, SOURCES)
