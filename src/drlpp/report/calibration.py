"""A table of what a calibration found."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from drlpp.units import format_time

_UNKNOWN = 0.3
"""Factors whose standard deviation is above this were hardly measured."""


def calibration_table(found: dict[str, Any]) -> Table:
    """One row per device and kind of link, from `drlpp.cost.calibration.summary`."""
    counts = found["counts"]
    table = Table(
        title=f"measured: {counts['actions']:,} actions, {counts['transfers']:,} transfers, "
        f"{counts['all_reduces']:,} all-reduces",
        title_justify="left",
        caption="factors of seconds: 2.00 is twice as slow as was believed",
        caption_justify="left",
    )
    table.add_column("what")
    table.add_column("factor", justify="right", no_wrap=True)
    table.add_column("standard deviation", justify="right", no_wrap=True)
    for row in found["devices"]:
        name = row["type"] if row["type"] == row["calibrated_type"] else f"{row['type']}, now {row['calibrated_type']}"
        _add(table, f"device {row['device']} ({name})", row)
    for row in found["links"]:
        where = "links inside" if row["scope"] == "inside" else "network of"
        _add(table, f"{where} host {row['host']}: seconds per byte", row["seconds_per_byte"])
        _add(table, f"{where} host {row['host']}: latency", row["latency"])
    overhead = found["action_overhead_s"]
    table.add_row(Text("overhead of an action"), format_time(overhead["value"]), _share(overhead["deviation"]))
    return table


def _add(table: Table, what: str, factor: dict[str, Any]) -> None:
    unknown = factor["deviation"] > _UNKNOWN
    value = f"{factor['value']:.2f}{' (not measured)' if unknown else ''}"
    table.add_row(Text(what), value, _share(factor["deviation"]), style="dim" if unknown else "")


def _share(deviation: float) -> str:
    return f"{deviation:.1%}" if deviation < 1 else f"x{1 + deviation:.1f}"
