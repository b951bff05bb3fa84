from __future__ import annotations

from drlpp.report.wording import describe_part, format_count, format_share


def test_counts():
    assert format_count(2810.4) == "2,810"
    assert format_count(42.26) == "42.3"


def test_parts_of_a_result():
    assert describe_part("policy_s", 0.19) == "policy: 190 ms"
    assert describe_part("num_samples", 12345.0) == "num samples: 12,345"


def test_shares():
    assert [format_share(x) for x in (0.0, 0.001, 0.123, 1.5)] == ["0%", "<1%", "12%", "150%"]
