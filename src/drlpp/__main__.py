"""``python -m drlpp`` (and ``torchrun -m drlpp``) is the command line."""

from drlpp.cli.main import main

main()
