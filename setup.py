"""Builds the compiled part of drlpp, `drlpp._native`, from the C++ sources in src/native.

`pip install` calls this; so does `make native`, which builds into the checkout (``build_ext --inplace``). All settings
other than those of the extension stand in pyproject.toml.
"""

import hashlib
import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CCompilerError, ExecError, PlatformError

HERE = Path(__file__).parent
NATIVE = Path("src") / "native"
SOURCES = sorted(str(p.relative_to(HERE)) for p in (HERE / NATIVE).rglob("*.cpp"))
HEADERS = sorted(str(p.relative_to(HERE)) for p in (HERE / NATIVE).rglob("*.h"))


def source_hash() -> str:
    """The hash that `drlpp.native` compares: names and contents of all sources in order."""
    sha = hashlib.sha256()
    for path in sorted((HERE / NATIVE).rglob("*")):
        if path.suffix in (".cpp", ".h"):
            sha.update(path.relative_to(HERE / NATIVE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def needs_recompile(object_file: str, source: str) -> bool:
    """Whether a source or a header that it includes is newer than what was compiled; module.cpp holds the hash."""
    compiled, included = Path(object_file), Path(object_file).with_suffix(".d")
    if not compiled.exists() or not included.exists() or source.endswith("module.cpp"):
        return True
    paths = [Path(p) for p in included.read_text().replace("\\\n", " ").split()[1:]]
    return any(not p.exists() or p.stat().st_mtime_ns > compiled.stat().st_mtime_ns for p in (*paths, Path(__file__)))


class Build(build_ext):
    """`build_ext` that says in one line what is missing where there is no compiler."""

    def build_extensions(self) -> None:
        try:
            super().build_extensions()
        except (CCompilerError, ExecError, PlatformError, FileNotFoundError) as error:
            raise SystemExit(
                f"drlpp needs a C++17 compiler and the Python headers to be built ({error}): install them (Debian, "
                "Ubuntu: apt-get install g++ python3-dev; Fedora: dnf install gcc-c++ python3-devel; macOS: "
                "xcode-select --install) or set CXX to the compiler"
            ) from error


ParallelCompile("DRLPP_BUILD_JOBS", default=os.cpu_count() or 1, needs_recompile=needs_recompile).install()
setup(
    ext_modules=[
        Pybind11Extension(
            "drlpp._native",
            SOURCES,
            include_dirs=[str(NATIVE)],
            depends=HEADERS,
            define_macros=[("DRLPP_SOURCE_HASH", f'"{source_hash()}"')],
            extra_compile_args=[
                "-O3",
                "-ffp-contract=off",
                "-fvisibility=hidden",
                "-pthread",
                "-MMD",
                "-Wall",
                "-Wextra",
            ],
            cxx_std=17,
        )
    ],
    cmdclass={"build_ext": Build},
)
