"""The gate of tests/conftest.py: a skip for a reason that is not listed is a failure."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.mark.parametrize(
    ("reason", "listed"),
    [("needs a GPU", True), ("Skipped: needs a GPU", True), ("not today", False), ("it needs a GPU", False)],
)
def test_reasons(reason: str, listed: bool):
    assert (runpy.run_path(str(CONFTEST))["refused"](reason) is None) == listed


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
