"""``python -m drlpp.runtime.launch FOLDER``: one rank of the job in a folder (`drlpp.runtime.launch.worker`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from drlpp.runtime.launch.worker import main

if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)  # do not wait for the threads of a broken process group
