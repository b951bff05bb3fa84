"""Times of ops, measured on the device at hand.

The captured model is run once, op by op, on its example micro-batch. At every call that is not known yet the call is
timed alone on the values that it got: forward, then the backward pass for its input gradients, then for all of its
gradients; the weight gradient is the difference. A time is the median of repeats after a warm-up. Equal calls (same
operator, shapes, dtypes and arguments) are measured once, and kept in a file from which an interrupted profile goes on.

On a GPU a call is launched while the GPU sleeps, so that its kernels are timed and not the host that launches them,
which in a whole step is ahead of them; the step is timed as it is.

Calls that are timed alone find their operands in the cache, and memory already allocated. Therefore the whole step is
timed too, and all times are scaled so that their sum is the time of the whole step; `Profile.scale` says by how much.
On a CPU ops are timed inside the step besides (`times_in_step`), and only the ratio of input to weight gradient comes
from the calls alone; the forward and the backward pass are scaled each for itself.

Devices that share memory bandwidth and caches, as the cores of a CPU do, slow each other down. So the step is timed
again while the forward pass runs in 1, 3, 7, ... other processes. What it takes then, over what it takes alone, is the
curve of the graph (`OpGraph.slowdown`).

Left out: ops that run at the same time on one device, the optimizer, and transfers.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from drlpp.capture.calls import Call, is_getitem, on_device
from drlpp.capture.captured import CapturedModel
from drlpp.capture.graph_builder import node_costs
from drlpp.capture.interpret import attribute, run_forward, run_stages
from drlpp.capture.times_in_step import times_in_step
from drlpp.cluster.devices import CPU_PRESET, preset_of_gpu
from drlpp.errors import CaptureError, InputError
from drlpp.files import read_text, write_atomically
from drlpp.freed_memory import keep_freed_memory
from drlpp.graph import REFERENCE, OpGraph, OpTimes
from drlpp.threads import one_thread
from drlpp.torch_private import cuda_sleep, tree_leaves

_LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1
SAVE_EVERY_S = 10.0
NEIGHBOUR_START_S = 600.0
USUAL_SCALE = (0.5, 2.0)
"""Outside of this range the ops timed alone tell little about the step, and a warning is given."""

Progress = Callable[[int, int, str], None]
"""``progress(calls_done, calls_in_all, kind_of_op)``."""
Seconds = tuple[float, float, float]
"""Forward, input gradient, weight gradient."""
_HEAD_START, _LONGEST_HEAD_START = 1 << 20, 1 << 26
"""Cycles that a GPU sleeps before a timed call: half a millisecond, at most 30."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """A graph with measured times.

    Attributes:
        graph: the captured graph, every op with times under the asked key.
        step_s: measured seconds of forward and backward of one micro-batch.
        sum_of_ops_s: sum of the times of the ops before scaling.
        num_measured: distinct calls that were measured now (the others were in the cache).
    """

    graph: OpGraph
    step_s: float
    sum_of_ops_s: float
    num_measured: int

    @property
    def scale(self) -> float:
        """Factor that all times were multiplied by, so that their sum is `step_s`."""
        return self.step_s / self.sum_of_ops_s


def profile(
    captured: CapturedModel,
    *,
    device: str = "cpu",
    key: str = REFERENCE,
    measured_on: str = "",
    cache: Path | None = None,
    repeats: int = 5,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measures every op of a captured model on this machine.

    Args:
        captured: a model with values (captured on ``cpu``). Its parameters and buffers are left as they are.
        device: torch device to measure on (``cpu``, ``cuda``).
        key: under which key of `Op.times` the times are put: a device type of the cluster, or `REFERENCE`.
        measured_on: with `REFERENCE`, the device type of the database that this machine is, if it is one.
        cache: JSON file of measured calls; read if it exists, written while measuring.
        repeats: measurements of which the median is taken.
        processes: the curve of slow-downs ends at so many, this one included; None: on a CPU, at the number of cores.
        progress: called after every distinct call.

    Raises:
        CaptureError: the model has no values, or PyTorch has no such device.
        InputError: the cache is not readable, `repeats` or `processes` is below 1, or several are asked for on a GPU.
    """
    if not captured.has_values:
        raise CaptureError(f"{captured.graph.name!r} was captured without values: capture it with device='cpu'")
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: it must be at least 1")
    on_cpu = _device(device).type == "cpu"
    if processes is None:
        processes = (os.cpu_count() or 1) if on_cpu else 1
    if processes < 1:
        raise InputError(f"processes is {processes}: it must be at least 1")
    if processes > 1 and not on_cpu:
        raise InputError(f"{processes} processes on {device!r}: a GPU is no shared CPU, so profile it with one process")
    if on_cpu:
        keep_freed_memory()  # as the ranks of a run do
    clock = _Clock(_device(device), repeats)
    store = _Store(cache, clock.machine)
    if clock.on_gpu:
        captured = _copy_on_device(captured, clock.device)
    calls = node_costs(captured.module, captured.no_grad).calls
    buffers = {name: tensor.clone() for name, tensor in captured.module.named_buffers()}
    num_known = len(store.seconds)
    with one_thread():
        try:
            _measure_calls(captured, calls, store, clock, progress)
        finally:
            store.save()
            _restore(captured.module, buffers)
        steps = _steps(captured, clock, processes)
        within = {} if clock.on_gpu else clock.within_step(captured)
    _restore(captured.module, buffers)
    times = _op_seconds(captured, calls, store)
    total = sum(sum(t) for t in times.values())
    times |= {name: _parts(times[name], *seconds) for name, seconds in within.items()}
    scales = _scales(steps[1], list(times.values()))
    if not USUAL_SCALE[0] <= sum(steps[1]) / total <= USUAL_SCALE[1]:
        _LOG.warning("the whole step takes %.2f times the sum of its ops: other load?", sum(steps[1]) / total)
    ops = tuple(
        dataclasses.replace(
            op, times={**op.times, key: OpTimes(*(s * f for s, f in zip(times[op.name], scales, strict=True)))}
        )
        for op in captured.graph.ops
    )
    graph = dataclasses.replace(
        captured.graph,
        ops=ops,
        measured_on=measured_on or captured.graph.measured_on,
        slowdown=_slowdown(steps) if processes > 1 else (),
    )
    return Profile(graph, sum(steps[1]), total, len(store.seconds) - num_known)


def _steps(captured: CapturedModel, clock: _Clock, processes: int) -> dict[int, tuple[float, float]]:
    """Processes that are busy -> seconds of the forward and the backward pass of the whole step."""
    counts = [*itertools.takewhile(lambda n: n < processes, (2**k for k in itertools.count())), processes]
    out = {}
    for count in counts:
        with _neighbours(captured, count - 1):
            out[count] = clock.step(captured)
    return out


def _slowdown(steps: Mapping[int, tuple[float, float]]) -> tuple[float, ...]:
    """The curve for every number of busy processes: straight between those measured, and it never falls."""
    factors = np.maximum.accumulate([sum(s) / sum(steps[1]) for s in steps.values()])
    curve = np.interp(range(1, max(steps) + 1), list(steps), factors)
    return tuple(round(f, 4) for f in curve.tolist())


def _scales(step: tuple[float, float], times: Sequence[Seconds]) -> Seconds:
    """What the parts of ops are multiplied by, so that they add up to the passes of the whole step."""
    forward, backward = sum(t[0] for t in times), sum(t[1] + t[2] for t in times)
    if not (all(step) and forward and backward):  # told as one, or nothing is trained
        scale = sum(step) / (forward + backward)
        return scale, scale, scale
    return step[0] / forward, step[1] / backward, step[1] / backward


@contextmanager
def _neighbours(captured: CapturedModel, number: int) -> Iterator[None]:
    """Within it, so many other processes run the forward pass of the model over and over again.

    Not the backward pass: autograd does not run in a forked process.
    """
    context = multiprocessing.get_context("fork")  # which shares the parameters instead of copying them
    stop, running = context.Event(), context.Semaphore(0)
    workers = [context.Process(target=_run_until, args=(captured, stop, running), daemon=True) for _ in range(number)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        for worker in workers:
            worker.start()
    try:
        for _ in workers:
            if not running.acquire(timeout=NEIGHBOUR_START_S):
                raise CaptureError(f"a process that was to run {captured.graph.name!r} beside this one did not start")
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def _run_until(captured: CapturedModel, stop: Event, running: Semaphore) -> None:
    torch.set_num_threads(1)
    run_forward(captured)
    running.release()
    while not stop.is_set():
        run_forward(captured)


def database_name(device: str) -> str:
    """The device type of the database that a torch device of this machine is; empty if it is not in the database."""
    if _device(device).type != "cuda":
        return CPU_PRESET
    return preset_of_gpu(torch.cuda.get_device_name(device))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CaptureError(
            f"device {name!r} cannot be used here: {' '.join(str(error).split())[:150]}: use 'cpu', or 'cuda' on a "
            "machine with a GPU"
        ) from error
    return device


def _restore(module: torch.nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in module.named_buffers():
            tensor.copy_(buffers[name])


def _measure_calls(
    captured: CapturedModel,
    calls: Mapping[fx.Node, Call],
    store: _Store,
    clock: _Clock,
    progress: Progress | None,
) -> None:
    """Runs the model node by node and times the calls that the store does not know."""
    keys = {node: _digest(call) for node, call in calls.items()}
    wanted = set(keys.values())
    missing = wanted - set(store.seconds)
    if not missing:
        return
    last_use = {source: node for node in captured.module.graph.nodes for source in node.all_input_nodes}
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in captured.module.graph.nodes:
            if node.op == "placeholder":
                values[node] = captured.example_inputs[node.name].clone()
            elif node.op == "get_attr":
                values[node] = attribute(captured.module, str(node.target))
            elif node.op == "call_function":
                call = calls.get(node)
                if call is not None and keys[node] in missing:
                    seconds = clock.call(call, [values[s] for s in call.sources])
                    missing.remove(keys[node])
                    store.add(keys[node], seconds)
                    if progress is not None:
                        progress(len(wanted) - len(missing), len(wanted), str(call.target))
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    values.pop(source, None)


def _op_seconds(captured: CapturedModel, calls: Mapping[fx.Node, Call], store: _Store) -> dict[str, Seconds]:
    """Op name -> sum of its calls."""
    out: dict[str, Seconds] = {op.name: (0.0, 0.0, 0.0) for op in captured.graph.ops}
    for node in captured.module.graph.nodes:
        if node.op == "call_function" and not is_getitem(node):
            name = captured.op_of_node[node.name]
            a, b = out[name], store.seconds[_digest(calls[node])]
            out[name] = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    return out


def _parts(alone: Seconds, forward_s: float, backward_s: float) -> Seconds:
    """The parts of an op inside the step: its backward pass is divided as it is alone."""
    _, input_s, weight_s = alone
    weight = weight_s / (input_s + weight_s) if input_s + weight_s else 0.0
    return forward_s, backward_s * (1.0 - weight), backward_s * weight


def _digest(call: Call) -> str:
    return hashlib.sha256(call.key.encode()).hexdigest()[:24]


class _Clock:
    """Times calls and steps on one device."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self._repeats = repeats
        name = torch.cuda.get_device_name(device) if self.on_gpu else f"{platform.machine()} {platform.processor()}"
        self.machine = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"

    def seconds(self, prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
        """Median seconds of `run(prepare())`, of which only `run` counts."""
        return self._median(self._kernels if self.on_gpu else self._once, prepare, run)

    def _median(
        self,
        once: Callable[[Callable[[], Any], Callable[[Any], Any]], float],
        prepare: Callable[[], Any],
        run: Callable[[Any], Any],
    ) -> float:
        return statistics.median([once(prepare, run) for _ in range(self._repeats + 1)][1:])  # the first is the warm-up

    def _once(self, prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
        prepared = prepare()
        if not self.on_gpu:  # what else keeps the processors busy does not count
            start = time.process_time()
            run(prepared)
            return time.process_time() - start
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        run(prepared)
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def _kernels(self, prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
        """Seconds that the GPU takes: it sleeps until all is launched, unless that needs a result of the GPU."""
        cycles = _HEAD_START
        while True:
            prepared = prepare()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            cuda_sleep(cycles)
            begin.record()
            run(prepared)
            launched = not begin.query()
            end.record()
            end.synchronize()
            if launched or cycles >= _LONGEST_HEAD_START:
                return float(begin.elapsed_time(end)) / 1e3
            cycles *= 4

    def call(self, call: Call, given: Sequence[torch.Tensor]) -> Seconds:
        """Times a call on copies of the tensors it was given."""
        leaves = [
            value.detach().clone().requires_grad_(spec.requires_grad)
            for value, spec in zip(given, call.tensors, strict=True)
        ]
        inputs = [t for t, s in zip(leaves, call.tensors, strict=True) if s.requires_grad and not s.is_param]
        params = [t for t, s in zip(leaves, call.tensors, strict=True) if s.requires_grad and s.is_param]

        def prepare() -> tuple[torch.Tensor, ...]:
            return tuple(t.clone() if s.changed else t for t, s in zip(leaves, call.tensors, strict=True))

        with torch.set_grad_enabled(call.grad_enabled):
            forward_s = self.seconds(prepare, call.run)
            results = [t for t in tree_leaves(call.run(prepare())) if isinstance(t, torch.Tensor) and t.requires_grad]
        if not results:
            return forward_s, 0.0, 0.0
        gradients = [torch.ones_like(r) for r in results]
        for p in params:
            p.grad = torch.zeros_like(p)

        def clear() -> None:
            for t in inputs:
                t.grad = None

        def backward(wanted: list[torch.Tensor]) -> float:
            return self.seconds(
                clear,
                lambda _: torch.autograd.backward(results, gradients, inputs=wanted, retain_graph=True),
            )

        input_s = backward(inputs) if inputs else 0.0
        weight_s = max(0.0, backward([*inputs, *params]) - input_s) if params else 0.0
        return forward_s, input_s, weight_s

    def step(self, captured: CapturedModel) -> tuple[float, float]:
        """Seconds of the forward and the backward pass of the whole model, with gradients accumulated.

        On a GPU, which is not to wait between the two, all of it is told as one.
        """
        one_stage = [0] * captured.graph.num_ops
        began, forward_s = 0.0, []

        def prepare() -> None:
            nonlocal began
            began = time.process_time()

        def between() -> None:
            forward_s.append(time.process_time() - began)

        with _own_gradients(captured):
            step_s = self._median(self._once, prepare, lambda _: run_stages(captured, one_stage, between=between))
        if self.on_gpu:
            return step_s, 0.0
        ahead_s = min(step_s, statistics.median(forward_s[1:]))
        return ahead_s, step_s - ahead_s

    def within_step(self, captured: CapturedModel) -> dict[str, tuple[float, float]]:
        """Op -> seconds of its forward and its backward pass inside the step."""
        with _own_gradients(captured):
            return times_in_step(captured, self._repeats)


@contextmanager
def _own_gradients(captured: CapturedModel) -> Iterator[None]:
    """The gradients of the parameters are put back afterwards."""
    parameters = list(captured.module.parameters())
    before = [p.grad for p in parameters]
    try:
        yield
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad


def _copy_on_device(captured: CapturedModel, device: torch.device) -> CapturedModel:
    """A copy of the model on `device`."""
    module = copy.deepcopy(captured.module).to(device)
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args, node.kwargs = on_device(node.args, device), on_device(node.kwargs, device)
    inputs = {name: tensor.to(device) for name, tensor in captured.example_inputs.items()}
    return dataclasses.replace(captured, module=module, example_inputs=inputs)


class _Store:
    """Measured calls of one machine, in a JSON file that may hold those of several."""

    def __init__(self, path: Path | None, machine: str) -> None:
        self._path = path
        self._machine = machine
        self._all: dict[str, dict[str, Seconds]] = {}
        if path is not None and path.exists():
            self._all = _read(path)
        self.seconds = self._all.setdefault(machine, {})
        self._saved_at = time.monotonic()

    def add(self, key: str, seconds: Seconds) -> None:
        self.seconds[key] = seconds
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        self._saved_at = time.monotonic()
        if self._path is not None:
            write_atomically(self._path, json.dumps({"schema_version": SCHEMA_VERSION, "machines": self._all}) + "\n")


def _read(path: Path) -> dict[str, dict[str, Seconds]]:
    try:
        content = json.loads(read_text(path, "the cache of measured calls"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema_version is {content['schema_version']}: this version reads {SCHEMA_VERSION}"
            )
        return {
            machine: {key: (float(f), float(i), float(w)) for key, (f, i, w) in calls.items()}
            for machine, calls in content["machines"].items()
        }
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a cache of measured calls ({type(error).__name__}: {error}): delete it or name another file"
        ) from error
