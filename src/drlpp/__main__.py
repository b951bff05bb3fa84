"""``python -m drlpp`` (and ``torchrun -m drlpp``) is the command line."""

import sys

try:
    from drlpp.cli.main import main
except KeyboardInterrupt:  # while its modules are loaded
    sys.stderr.write("drlpp: error: interrupted\n")
    sys.exit(130)

main()
