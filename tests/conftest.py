"""Skips are those that are listed here, and no more: any other skip is a failure.

A test that did not run must not look like one that passed. Each entry is the beginning of a reason, with what a machine
needs so that the test runs.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("drlpp", deadline=None)  # a loaded machine is no failure; pytest-timeout ends what hangs
settings.load_profile("drlpp")

ALLOWED_SKIPS = (
    "needs a GPU",
    "needs two GPUs",
    "no third-party profiles at",  # a folder of other people's profiles, named by DRLPP_DATA
    "the published profile",  # the same folder
    "peaks of memory are read from /proc",
    "the threads of this process cannot be listed",
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
