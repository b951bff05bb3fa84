"""Trials: ranks that stay, and measure one plan after another, so that starting processes does not dominate.

``python -m drlpp.runtime.launch.plan_measurement`` is one rank. It reads a request per line on standard input and
answers with a line on standard output. Every trial has a process group of its own, of the ranks that its plan needs;
the model is captured once per rank. After a failure all ranks start anew, since nobody knows what state they are in.

Left out: ranks on other machines (start `Trials` under a launcher of your own there, or give the measured times to
`drlpp.agent.training.fine_tune.train_on_problem`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from drlpp.capture import CapturedModel, Example
from drlpp.errors import ExecutionError, InputError
from drlpp.plan import Plan, Trace, plan_from_dict, plan_to_dict
from drlpp.runtime.launch.job import RunOptions
from drlpp.runtime.launch.rank_processes import loopback
from drlpp.runtime.launch.training import train_captured, train_emulated
from drlpp.runtime.launch.worker import init_process_group, model_of


class Trials:
    """Ranks on this machine that measure plans; a context manager.

    Args:
        num_ranks: the most devices that a plan may use.
        options: how each plan is run; `RunOptions.steps` of 2 measures one step after one that warms up.
        timeout_s: a plan that takes longer has failed.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, num_ranks: int, options: RunOptions, timeout_s: float = 120.0) -> None:
        if num_ranks < 1 or not timeout_s > 0:
            raise InputError(f"num_ranks {num_ranks} and timeout_s {timeout_s}: must be at least 1 and positive")
        self.num_ranks = num_ranks
        self.options = options
        self.timeout_s = timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="drlpp-trials-"))
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._trials = 0

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def measure(self, plan: Plan) -> float:
        """Seconds of a step of a plan. Raises as `trace` does."""
        return self.trace(plan)[0]

    def trace(self, plan: Plan) -> tuple[float, Trace]:
        """Seconds of a step of a plan, and the trace of the last one.

        Raises:
            InputError: the plan needs more ranks than there are.
            ExecutionError: it failed, or took too long; the ranks start anew with the next trial.
        """
        devices = plan.used_devices
        if len(devices) > self.num_ranks:
            raise InputError(
                f"the plan uses {len(devices)} devices, there are {self.num_ranks} ranks: use at most these"
            )
        if not self._ranks:
            self._start()
        self._trials += 1
        path = self._folder / f"plan-{self._trials}.json"
        path.write_text(json.dumps(plan_to_dict(plan)))
        request = {
            "plan": str(path),
            "store": str(self._folder / f"store-{self._trials}"),
            "world_size": len(devices),
            "options": dataclasses.asdict(self.options),
            "trace": str(self._folder / "trace.pickle"),
        }
        running = self._ranks[: len(devices)]
        try:
            for rank in running:
                if rank.stdin is None:
                    raise ExecutionError("a rank has no standard input: start it anew")
                rank.stdin.write(json.dumps(request).encode() + b"\n")
                rank.stdin.flush()
            answers = self._answers(running)
        except (OSError, ExecutionError) as error:
            self._stop()
            raise ExecutionError(f"trial {self._trials} failed: {error}") from error
        finally:
            path.unlink(missing_ok=True)
        trace = pickle.loads((self._folder / "trace.pickle").read_bytes())
        if not isinstance(trace, Trace):
            raise ExecutionError(f"trial {self._trials} left a {type(trace).__name__} in place of a trace")
        return float(answers[0]["seconds"]), trace

    def _answers(self, running: list[subprocess.Popen[bytes]]) -> list[dict[str, Any]]:
        """One answer of each rank. Raises ExecutionError at the first that failed or ended, or when the time is up."""
        deadline = time.monotonic() + self.timeout_s
        answers: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for number, rank in enumerate(running):
                if rank.stdout is not None:
                    selector.register(rank.stdout, selectors.EVENT_READ, (number, rank.stdout))
            while len(answers) < len(running):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise ExecutionError(f"no answer in {self.timeout_s:g} s")
                for key, _ in ready:
                    number, stream = key.data
                    line = stream.readline()
                    if not line:
                        raise ExecutionError(f"rank {number} ended with status {running[number].wait()}")
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ExecutionError(f"rank {number}: {answer['error']}")
                    answers[number] = answer
        return [answers[number] for number in range(len(running))]

    def _start(self) -> None:
        environment = {"OMP_NUM_THREADS": "1", **loopback(), **os.environ}
        for rank in range(self.num_ranks):
            with (self._folder / f"log-{rank}.txt").open("ab") as log:
                self._ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "drlpp.runtime.launch.plan_measurement"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        env={
                            **environment,
                            "RANK": str(rank),
                            "LOCAL_RANK": str(rank),
                            "LOCAL_WORLD_SIZE": str(self.num_ranks),
                        },
                    )
                )

    def _stop(self) -> None:
        for process in self._ranks:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self._ranks = []


def main() -> int:
    """Serves trials on this rank until standard input ends; returns the exit status."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    torch.set_num_threads(1)
    model: tuple[CapturedModel, Callable[[], Example]] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            plan = plan_from_dict(json.loads(Path(request["plan"]).read_text()))
            options = RunOptions.read(request["options"])
            if model is None and not options.emulate:
                model = model_of(plan, options.seed)
            answer: dict[str, Any] = {"seconds": _trial(plan, model, options, request)}
        except Exception as error:  # noqa: BLE001 (told to the one who asked, who ends this process)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _trial(
    plan: Plan,
    model: tuple[CapturedModel, Callable[[], Example]] | None,
    options: RunOptions,
    request: dict[str, Any],
) -> float:
    os.environ["WORLD_SIZE"] = str(request["world_size"])
    init_process_group(f"file://{request['store']}")
    try:
        if model is None:
            report = train_emulated(plan, options, _silent)
        else:
            report = train_captured(model[0], plan, options, _silent, make_example=model[1])
        if dist.get_rank() == 0:
            Path(request["trace"]).write_bytes(pickle.dumps(report.trace))
        return report.iteration_time_s
    finally:
        dist.destroy_process_group()


def _silent(line: str) -> None:
    """Says nothing."""


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # do not wait for the threads of a broken process group
