"""The command line: thin verbs over the Python API.

Exit status: 0 done; 1 a run failed; 2 bad input (one line: what, where, the rule, the fix); 3 no feasible plan;
130 interrupted; 143 a run was asked to stop (SIGTERM), and did so with a checkpoint.
With ``--json``, stdout holds one JSON object and nothing else; everything else goes to stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import typer

from drlpp.cli import bench, calibrate, capture, compare, export, learn, lists, plan, run, simulate, whatif
from drlpp.cli.stdout import open_streams, stdout_failure
from drlpp.cli.terminal import complain
from drlpp.errors import DrlppError, InfeasibleError, InputError, StoppedError

# click's UsageError, wherever this release of typer keeps click
_UsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What a file or folder says that this user may not use."""

app = typer.Typer(
    name="drlpp",
    help="Plans pipeline-parallel training of any PyTorch model on unequal devices, and runs the plan.",
    epilog="Start with: drlpp plan timm:resnet50 --cluster mixed-a100-v100-t4 -o plan.json",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for module in (plan, compare, bench, whatif, simulate, run, calibrate, learn, capture, export, lists):
    module.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its status."""
    sys.exit(run_command_line(arguments))


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit status."""
    open_streams()
    command = typer.main.get_command(app)
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = command.main(args=given, prog_name="drlpp", standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        complain(str(error))
        return 2
    except InfeasibleError as error:
        complain(str(error))
        return 3
    except StoppedError as error:
        complain(str(error))
        return 143
    except DrlppError as error:
        complain(str(error))
        return 1
    except _UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        complain(f"{error.format_message()}{where}")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except SystemExit as leaving:  # how click answers a reader of stdout that is gone
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        complain(str(stdout_failure(os.strerror(errno.EPIPE))))
        return 1
    except OSError as error:
        reason = error.strerror or "no reason given"
        if error.errno in _FORBIDDEN and error.filename is not None:
            complain(f"{error.filename}: {reason}: give this user the right to use it, or use another path")
            return 2
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        complain(str(stdout_failure(reason)))
        return 1
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
