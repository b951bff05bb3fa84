"""Groups of options against the same options given one by one."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from typer.testing import CliRunner

from drlpp.cli.option_groups import grouped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    width: Annotated[int, typer.Option("--width", help="Of the thing.", min=1)] = 3
    names: Annotated[str | None, typer.Option("--names")] = None


def in_groups(*, thing: Annotated[str, typer.Argument()], size: Size, loud: Annotated[bool, typer.Option()] = False):
    """What it does."""
    typer.echo(f"{thing} {size.width} {size.names} {loud}")


def one_by_one(
    thing: Annotated[str, typer.Argument()],
    width: Annotated[int, typer.Option("--width", help="Of the thing.", min=1)] = 3,
    names: Annotated[str | None, typer.Option("--names")] = None,
    loud: Annotated[bool, typer.Option()] = False,
):
    """What it does."""
    typer.echo(f"{thing} {width} {names} {loud}")


def answers(verb, *arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command("verb")(verb)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_verbs_with_groups_do_what_verbs_without_do():
    for arguments in (
        ("a",),
        ("a", "--width", "5"),
        ("a", "--names", "x", "--loud"),
        (),
        ("--help",),
        ("a", "--width", "0"),
    ):
        assert answers(grouped(in_groups), *arguments) == answers(one_by_one, *arguments)
    assert answers(grouped(in_groups), "a", "--width", "5", "--loud") == (0, "a 5 None True\n")
