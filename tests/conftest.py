"""Skips are those that are listed here, and no more: any other skip is a failure. And which tests a process runs.

A test that did not run must not look like one that passed. Each entry is the beginning of a reason, with what a machine
needs so that the test runs.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("drlpp", deadline=None)  # a loaded machine is no failure; pytest-timeout ends what hangs
settings.load_profile("drlpp")

ALLOWED_SKIPS = (
    "needs a GPU",
    "no third-party profiles at",  # a folder of other people's profiles, named by DRLPP_DATA
    "the published profile",  # the same folder
    "peaks of memory are read from /proc",
    "the threads of this process cannot be listed",
    "the C library is not glibc",
    "this release of torch has no grouped product",
    "accelerate is not installed",
    "mkdocs is not installed",
    "no C++ compiler",
    "transformers 4",  # has no experts without a loop over values; `make test-versions` runs it
    "the engine is not installed",  # `make test-engines` installs Megatron-LM, DeepSpeed, torchtitan
)
"""Beginnings of the reasons that a test may be skipped for."""


def refused(reason: str) -> str | None:
    """Why a skip fails, or None if its reason is listed."""
    text = reason.removeprefix("Skipped: ")
    if text.startswith(ALLOWED_SKIPS):
        return None
    return f"skipped for {text!r}: make the test run, or list the reason in tests/conftest.py"


def _gate(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if message := refused(reason):
            report.outcome = "failed"
            report.longrepr = message


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _gate(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _gate(report)
    return report


@functools.cache
def shares_ranks(path: Path) -> bool:
    """Whether tests of a file run on the ranks that live as long as the session (`distributed/conftest.py`)."""
    return "pool: WorkerPool" in path.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first, so that no process ends long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: 0 if shares_ranks(item.path) else 1 if item.path in slow else 2)  # keeps equal ones


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has one of pytest-xdist's processes run the tests of a file, and one all files that share ranks.

    What tests share is made once then: fixtures of the module, captured models, ranks.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ranks" if shares_ranks(config.rootpath / path) else path

    config.option.loadscopereorder = False  # by number of tests
    return ByFile(config, log)
