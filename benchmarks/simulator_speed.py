"""How many iterations per second the simulator simulates; writes its rows into docs/benchmarks.md.

    python benchmarks/simulator_speed.py            # a few minutes, one core; g++ is needed
    python benchmarks/simulator_speed.py --quick    # small sizes only, writes nothing

Figures are per second of CPU time of one core, so that they do not depend on what else the machine does, but for the
batch on two threads, which is per second of wall-clock time. The C++ loop (replay.cpp) has the semantics of the fast
evaluator and is built on the spot; the two take turns, and all three implementations must give the same time.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drlpp.cluster import Cluster, DeviceType, Host, Link, load_cluster
from drlpp.cost import PlacedStages, place_stages
from drlpp.cost.stage_costs import stage_costs
from drlpp.graph.generate.synthetic import chain_graph, random_graph
from drlpp.native import library
from drlpp.plan import Assignment, Provenance
from drlpp.problem import PlanningProblem
from drlpp.schedules import FlatSchedule, generate
from drlpp.schedules.replay import replay
from drlpp.sim import Evaluator, IncrementalBottleneck, simulate
from tables import machine, markdown, write_section

HERE = Path(__file__).parent
BATCH = 256
"""Assignments that are evaluated at once."""
TWO_CORES = 1.5
"""Two threads that got fewer cores than this are not worth a figure."""
INTS = (
    *("slot_off", "slot_device", "message_off", "message_backward", "message_grad", "message_src", "dst_off", "dst"),
    *("returns_off", "returns", "forward_inputs", "backward_inputs", "host", "local"),
)
REALS = (
    *("action_s", "held_bytes", "again_bytes", "resident_bytes", "gradient_bytes", "optimizer_s"),
    *("message_bytes", "message_s", "link_bandwidth", "link_latency_s", "port_bandwidth", "port_latency_s"),
)


class _Placed(ctypes.Structure):
    _fields_ = [(f"size{i}", ctypes.c_int64) for i in range(8)] + [(name, ctypes.c_void_p) for name in INTS + REALS]


class _Listed(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in FlatSchedule._fields]


def build_cpp(folder: Path) -> ctypes.CDLL:
    """Compiles replay.cpp."""
    library = folder / "replay.so"
    flags = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, "-o", str(library), str(HERE / "replay.cpp")], check=True)
    cpp = ctypes.CDLL(str(library))
    cpp.replay.restype = ctypes.c_double
    return cpp


def cpp_caller(
    cpp: ctypes.CDLL, placed: PlacedStages, flat: FlatSchedule, peak: NDArray[np.float64]
) -> Callable[[], float]:
    """A function without arguments that runs the C++ loop; it writes the ``[U]`` peaks."""
    arrays = [np.ascontiguousarray(getattr(placed, name)) for name in INTS + REALS]
    sizes = (
        placed.num_microbatches,
        len(placed.slot_off) - 1,
        len(placed.used),
        len(placed.slot_device),
        len(placed.dst),
        placed.channel_width,
        len(placed.port_bandwidth),
        placed.ports_shared,
    )
    first = _Placed(*sizes, *[a.ctypes.data for a in arrays])
    second = _Listed(*[a.ctypes.data for a in flat])
    kept = (arrays, flat, peak)

    def call() -> float:
        return float(cpp.replay(ctypes.byref(first), ctypes.byref(second), ctypes.c_void_p(kept[2].ctypes.data)))

    return call


def seconds(
    *calls: Callable[[], object],
    at_least_s: float,
    repeats: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """Seconds of one call of each function: the best of several rounds, in which they take turns."""
    numbers = []
    for call in calls:
        call()
        number = 1
        while True:
            start = clock()
            for _ in range(number):
                call()
            spent = clock() - start
            if spent >= at_least_s / repeats:
                break
            number = max(2 * number, int(number * at_least_s / repeats / max(spent, 1e-6)))
        numbers.append(number)
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, (call, number) in enumerate(zip(calls, numbers, strict=True)):
            start = clock()
            for _ in range(number):
                call()
            best[i] = min(best[i], (clock() - start) / number)
    return best


def chain_problem(num_stages: int, num_microbatches: int, *, one_host: bool) -> PlanningProblem:
    """A chain of equal stages, on one host, or on one host per stage (where ports are shared)."""
    link = Link(bandwidth=1e10, latency_s=1e-5)
    device = DeviceType(name="d", memory_bytes=10**12)
    if one_host:
        hosts = (Host(name="h", devices=("d",) * num_stages, link=link),)
    else:
        hosts = tuple(Host(name=f"h{i}", devices=("d",), network=link) for i in range(num_stages))
    graph = chain_graph(num_stages, tensor_bytes=1e6)
    return PlanningProblem.build(graph, Cluster("c", (device,), hosts), num_microbatches=num_microbatches)


def grid_row(
    cpp: ctypes.CDLL, num_stages: int, num_microbatches: int, *, one_host: bool, at_least_s: float
) -> list[str]:
    problem = chain_problem(num_stages, num_microbatches, one_host=one_host)
    assignment = Assignment(np.arange(num_stages), tuple((i,) for i in range(num_stages)))
    costs = stage_costs(problem, assignment.stage_of_op, num_stages)
    placed = place_stages(costs, problem.cluster, assignment.devices, num_microbatches)
    flat = generate("1f1b", placed)
    evaluator = Evaluator(problem)
    plan = evaluator.make_plan(assignment, Provenance(planner="benchmark"), ("1f1b",))
    hand_peak = np.empty(num_stages)
    by_hand = cpp_caller(cpp, placed, flat, hand_peak)
    times = {simulate(plan).prediction.iteration_time_s, replay(placed, flat).iteration_time_s, by_hand()}
    if max(times) > min(times) * (1 + 1e-12):
        raise SystemExit(f"the three implementations disagree: {times}")
    if not np.array_equal(replay(placed, flat).peak_memory_bytes, hand_peak):
        raise SystemExit("the peaks of the C++ loop are others")
    repeat = max(1, 20_000 // (num_stages * num_microbatches))
    compiled, hand = seconds(lambda: library.replay(placed, flat, repeat), by_hand, at_least_s=at_least_s)
    compiled /= repeat
    batch, names = [assignment] * BATCH, ("1f1b",)
    threads = Evaluator(problem, num_threads=2)
    (one_by_one,) = seconds(lambda: evaluator.evaluate(assignment, names), at_least_s=at_least_s)
    (best_of_all,) = seconds(lambda: evaluator.evaluate(assignment), at_least_s=at_least_s)
    (together,) = seconds(lambda: evaluator.evaluate_many(batch, names), at_least_s=at_least_s)
    began, spent = time.perf_counter(), time.process_time()
    (on_two,) = seconds(lambda: threads.evaluate_many(batch, names), at_least_s=at_least_s, clock=time.perf_counter)
    cores = (time.process_time() - spent) / (time.perf_counter() - began)
    together, on_two = together / BATCH, on_two / BATCH
    (reference,) = seconds(lambda: simulate(plan), at_least_s=at_least_s, repeats=2)
    where = "one host" if one_host else "ports"
    cells = [where, num_stages, num_microbatches]
    cells += [f"{1 / x:,.0f}" for x in (compiled, hand, together, on_two, one_by_one, best_of_all, reference)]
    cells += [f"{compiled / hand:.2f}", f"{reference / together:,.0f}", f"{reference / on_two:,.0f}"]
    if cores < TWO_CORES:
        cells[6] = cells[-1] = "-"
    return [str(cell) for cell in cells]


FIRST = """
import numpy as np
from drlpp.cluster import load_cluster
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from drlpp.sim import Evaluator
problem = PlanningProblem.build(chain_graph(4), load_cluster("paper-4x4-10gbe"))
Evaluator(problem).evaluate(Assignment(np.arange(4), ((0,), (1,), (2,), (3,))))
"""


def start_up_s() -> float:
    """CPU seconds from the start of Python to the end of the first evaluation."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", FIRST], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def move_rows(at_least_s: float) -> list[list[str]]:
    """Incremental evaluation of moved ops in a graph of 1,000 ops."""
    rng = np.random.default_rng(0)
    graph = random_graph(rng, 1000)
    problem = PlanningProblem.build(graph, load_cluster("paper-4x4-10gbe"))
    rows = []
    for num_stages in (4, 8, 16):
        labels = np.arange(1000) * num_stages // 1000
        assignment = Assignment(labels, tuple((i,) for i in range(num_stages)))
        moves = IncrementalBottleneck(problem, assignment)
        ops = rng.integers(0, 1000, 50_000)
        stages = labels[ops] + rng.choice([-1, 1], len(ops))
        keep = (stages >= 0) & (stages < num_stages)
        ops, stages = ops[keep], stages[keep]
        (once,) = seconds(lambda m=moves, o=ops, s=stages: m.state.costs_of_moves(o, s), at_least_s=at_least_s)  # type: ignore[misc]
        evaluator = Evaluator(problem)
        (full,) = seconds(lambda e=evaluator, a=assignment: e.bottleneck_s(a), at_least_s=at_least_s)  # type: ignore[misc]
        rows.append([str(num_stages), f"{len(ops) / once:,.0f}", f"{1 / full:,.0f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="small sizes only, write nothing")
    quick = parser.parse_args().quick
    at_least_s = 0.1 if quick else 0.5
    grid = [(s, m) for s in ((4, 8) if quick else (4, 8, 16, 64)) for m in ((8,) if quick else (8, 32, 128))]
    with tempfile.TemporaryDirectory() as folder:
        cpp = build_cpp(Path(folder))
        rows = [grid_row(cpp, s, m, one_host=h, at_least_s=at_least_s) for h in (True, False) for s, m in grid]
    header = (
        *(
            "transfers",
            "S",
            "M",
            "compiled",
            "C++",
            "batch",
            "batch, 2 threads",
            "single",
            "all schedules",
            "reference",
        ),
        *("time / C++", "batch / ref.", "2 threads / ref."),
    )
    parts = [
        f"{machine()}; `python benchmarks/simulator_speed.py`.",
        "Iterations simulated per second of CPU time of one core; 1F1B on a chain of S stages, M micro-batches. "
        "*compiled*: the replay of a schedule; *C++*: the same semantics in one function by hand; "
        f"*batch*: `Evaluator.evaluate_many` of {BATCH} assignments of ops, with costs, messages, schedule and "
        "simulation of each; *2 threads*: per second of wall-clock time (-: they had less than "
        f"{TWO_CORES} cores); *single*: `Evaluator.evaluate`; "
        "*all schedules*: the same under the best of all schedules that apply; *reference*: the readable event "
        "simulator with its trace.",
        markdown(header, rows),
        f"From the start of Python to the end of the first evaluation: {start_up_s():.1f} CPU seconds.",
        "Steady-state objective, random DAG of 1,000 ops: evaluations of one moved op per second of CPU time "
        "(incremental), and of whole assignments:",
        markdown(("S", "moves", "whole"), move_rows(at_least_s)),
    ]
    text = "\n\n".join(part.strip() for part in parts)
    print(text)
    if not quick:
        write_section("simulator-speed", text)


if __name__ == "__main__":
    main()
