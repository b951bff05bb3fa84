"""The console for results: one that says so when its reader leaves. rich is loaded with this file, and not before."""

from __future__ import annotations

import errno
import os

from rich.console import Console

from drlpp.cli.stdout import stdout_failure


class ResultsConsole(Console):
    """A console whose reader may leave: that is an error like others, and no silent exit."""

    def on_broken_pipe(self) -> None:
        raise stdout_failure(os.strerror(errno.EPIPE))
