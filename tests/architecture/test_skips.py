"""The gate of tests/conftest.py: a skip for a reason that is not listed is a failure."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parents[1]
CONFTEST = TESTS / "conftest.py"
SKIP = re.compile(r"""(?:pytest\.skip\(|(?:skipif|importorskip)\([^\n]*?\n?[^\n]*?reason=)f?"([^"{]+)""")
"""A skip in a test, and what its reason begins with."""


@pytest.mark.parametrize(
    ("reason", "listed"),
    [("needs a GPU", True), ("Skipped: needs a GPU", True), ("not today", False), ("it needs a GPU", False)],
)
def test_reasons(reason: str, listed: bool):
    assert (runpy.run_path(str(CONFTEST))["refused"](reason) is None) == listed


def test_the_reasons_are_those_that_tests_give():
    sources = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    given = {reason for path in sources for reason in SKIP.findall(path.read_text())}
    listed = runpy.run_path(str(CONFTEST))["ALLOWED_SKIPS"]
    assert [reason for reason in sorted(given) if not reason.startswith(listed)] == []
    assert [reason for reason in listed if not any(g.startswith(reason) for g in given)] == []


def test_a_skip_for_another_reason_fails(pytester: pytest.Pytester):
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makepyfile(
        test_body="import pytest\ndef test_a():\n    pytest.skip('needs a GPU')",
        test_later="import pytest\ndef test_b():\n    pytest.skip('later')",
        test_mark="import pytest\n@pytest.mark.skipif(True, reason='flaky')\ndef test_c():\n    pass",
        test_module="import pytest\npytest.skip('not today', allow_module_level=True)",
    )
    result = pytester.runpytest("-p", "no:cacheprovider", "--continue-on-collection-errors")
    result.assert_outcomes(skipped=1, failed=1, errors=2)
