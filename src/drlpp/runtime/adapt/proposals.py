"""The process beside rank 0 that calibrates and plans while the ranks train on, and what the two tell each other.

The process is started with a command that is given to the run, since the runtime knows no planner. Each line of its
standard input is a `Question` (`packed`). It answers with a line of JSON: ``{"proposal": ...}`` has a `Proposal` in the
same form, ``{"error": ...}`` says why there is none. It ends with its standard input, and nothing is left of it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import pickle
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drlpp.cost.calibration import Measurements
from drlpp.errors import ExecutionError
from drlpp.plan import Plan

NICENESS = 5
"""The process yields to the ranks."""
_LOOK_S, _LONGEST_PAUSE_S = 0.01, 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What rank 0 asks.

    Attributes:
        measured: what the run measured, of plans with the costs that were believed at first.
        current: the plan that runs, with these costs.
        others: plans that ran before.
        parallelism: what the plan may use, as `SearchSpace` has it.
        planning_s: seconds of a processor for the search.
        seed: of the search.
    """

    measured: tuple[Measurements, ...]
    current: Plan
    others: tuple[Plan, ...]
    parallelism: frozenset[str]
    planning_s: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """The answer; both plans have calibrated costs and a prediction with these.

    Attributes:
        current: the plan that runs.
        best: the best plan that was found, maybe the same.
        found: what the calibration found (`drlpp.cost.calibration.summary`).
        seconds: of calibrating and planning.
    """

    current: Plan
    best: Plan
    found: dict[str, Any]
    seconds: float


def packed(message: Question | Proposal) -> str:
    """A message as a line."""
    return base64.b64encode(pickle.dumps(message)).decode()


def unpacked(line: str) -> Any:
    """What was `packed` into a line."""
    return pickle.loads(base64.b64decode(line))


def processor_s(process: int) -> float:
    """Seconds of processors that a process has had; infinite where that cannot be told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class PlanningProcess:
    """The client of the process.

    Args:
        command: that starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (until `close`)
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        self._process = subprocess.Popen(
            [*command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment
        )
        self._questions: queue.Queue[str] = queue.Queue()
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        self._given_s, self._used_s = 0.0, 0.0
        self.busy = False

    def ask(self, question: Question) -> None:
        """Asks; the answer is fetched with `answer`. Raises ExecutionError if the process is gone."""
        if self._process.poll() is not None:
            raise self._gone()
        self._questions.put(packed(question))
        self.busy = True
        self._given_s, self._used_s = 0.0, processor_s(self._process.pid)

    def give(self, seconds: float) -> None:
        """Waits until the process has answered, or had so many more seconds of a processor.

        What else this machine does is nothing to an emulated cluster.
        """
        self._given_s += seconds
        deadline = time.monotonic() + _LONGEST_PAUSE_S
        while self.busy and self._answers.empty() and self._process.poll() is None and time.monotonic() < deadline:
            if processor_s(self._process.pid) - self._used_s >= self._given_s:
                return
            time.sleep(_LOOK_S)

    def answer(self) -> Proposal | None:
        """The proposal, if it is there; does not wait. Raises ExecutionError if planning failed."""
        try:
            line = self._answers.get_nowait()
        except queue.Empty:
            if self._process.poll() is not None:
                raise self._gone() from None
            return None
        self.busy = False
        answer = json.loads(line)
        if "error" in answer:
            raise ExecutionError(f"planning failed: {answer['error']}")
        proposal = unpacked(answer["proposal"])
        if not isinstance(proposal, Proposal):
            raise ExecutionError(f"the planning process sent a {type(proposal).__name__}: it must send a Proposal")
        return proposal

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _gone(self) -> ExecutionError:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it left no message"
        return ExecutionError(f"the planning process ended with status {self._process.poll()}: {last}")

    def _write(self) -> None:
        """The process may take its time to read: rank 0 does not wait for it."""
        pipe = self._process.stdin
        while pipe is not None:
            try:
                pipe.write(f"{self._questions.get()}\n".encode())
                pipe.flush()
            except OSError:
                return  # it is gone: whoever waits for the answer sees that

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line.decode())
