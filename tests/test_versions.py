"""The table of docs/install.md."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from tests.versions import BEGIN, END, HEAD, PAGE, counted, with_row

EMPTY = f"before\n{BEGIN}{END}\nafter\n"
OLD, NEW = ["2.9.1", "3.11.7", "4.57.6"], ["2.15.0", "3.13.0", "5.24.0"]


@pytest.mark.parametrize(
    ("attributes", "text", "good"),
    [
        ({"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}, "2 passed, 2 failed, 1 skipped", False),
        ({"tests": "5", "failures": "0", "errors": "0", "skipped": "0"}, "5 passed", True),
        ({"tests": "0"}, "0 passed", False),
    ],
)
def test_counts(attributes, text, good):
    report = ElementTree.Element("testsuites")
    ElementTree.SubElement(report, "testsuite", attributes)
    assert counted(report) == (text, good)


def test_rows_are_in_order_and_replaced():
    page = with_row(EMPTY, NEW, {"capture": "1 failed"}, "2026-01-01")
    page = with_row(page, OLD, {"capture": "3 passed", "runtime": "4 passed"}, "2026-01-02")
    page = with_row(page, NEW, {"capture": "3 passed"}, "2026-01-03")
    rows = (
        "| 2.9.1 | 3.11.7 | 4.57.6 | 3 passed | 4 passed | not run | not run | 2026-01-02 |\n"
        "| 2.15.0 | 3.13.0 | 5.24.0 | 3 passed | not run | not run | not run | 2026-01-03 |\n"
    )
    assert page == f"before\n{BEGIN}{HEAD}{rows}{END}\nafter\n"


def test_the_page_has_a_place_for_the_table():
    assert BEGIN in PAGE.read_text()
    assert END in PAGE.read_text()
