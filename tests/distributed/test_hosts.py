"""Runs under torchrun whose hosts come and go give what an undisturbed run gives."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from agents import hosts
from drlpp.cluster import Cluster
from drlpp.errors import ExecutionError, InfeasibleError, InputError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.plan import Plan, save_plan
from drlpp.runtime import run
from drlpp.runtime.launch.elastic import Elastic
from drlpp.runtime.launch.fresh_store import fresh_store
from drlpp.runtime.launch.hosts import Place, placed, plan_for_those_here
from drlpp.torch_private import Store
from plan_cases import local_cluster, make_plan, source_plan
from worker_pool import WorkerPool

STEPS = 150
DATA = """
import time, torch

def batches():
    generator = torch.Generator().manual_seed(3)
    while True:
        time.sleep(0.1)
        yield torch.randn(12, 2, 6, 6, generator=generator), torch.randint(5, (12,), generator=generator)
"""


def steps_of(log: Path) -> dict[int, float]:
    """Step -> loss, as the output of a host has it."""
    return {int(n): float(loss) for n, loss in re.findall(rf"step (\d+) of {STEPS}: loss (\S+),", log.read_text())}


def eventually(what: str, true: Callable[[], bool], log: Path, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come:\n{log.read_text()[-3000:]}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [("h2",), ("h1", "h2")], ids=["one", "two at once"])
def test_hosts_are_lost_and_come_back(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """Three hosts train; some are killed, the rest goes on under a new plan; they come back, and three go on."""
    plan = source_plan("branches", {"conv2d_1": 1, "add": 2}, [(0,), (1,), (2,)], tmp_path, num_devices=3)
    plan = dataclasses.replace(plan, cluster=local_cluster(3, per_host=1))
    save_plan(plan, tmp_path / "plan.json")
    (tmp_path / "data.py").write_text(DATA)
    arguments = [str(tmp_path / "plan.json"), "--steps", str(STEPS), "--seed", "1", "--elastic"]
    arguments += ["--checkpoint", str(tmp_path / "store"), "--checkpoint-every", "5"]
    arguments += ["--data", f"{tmp_path}/data.py:batches"]
    log = tmp_path / "log.txt"
    rest = [name for name in ("h0", "h1", "h2") if name not in lost]
    planning = f"planning for {', '.join(rest)}, {len(rest)} of 3 devices"
    with hosts(["h0", "h1", "h2"]) as there:
        for name in ("h0", "h1", "h2"):
            there.start(name, f"{len(rest)}:3", arguments, log)
        eventually("the first steps", lambda: len(steps_of(log)) >= 8, log)
        for name in lost:
            there.kill(name)
        eventually("a plan for the rest", lambda: planning in log.read_text(), log)
        went_on = len(re.findall("going on from the checkpoint", log.read_text()))
        eventually("steps of the rest", lambda: len(re.findall("going on from", log.read_text())) > went_on, log)
        done = max(steps_of(log))
        eventually("more steps of the rest", lambda: max(steps_of(log)) >= done + 8, log)
        for name in lost:
            there.start(name, f"{len(rest)}:3", arguments, log)
        assert there.wait(300) == {"h0": 0, "h1": 0, "h2": 0}, log.read_text()[-3000:]
    assert "asked to stop (SIGTERM) after step" in log.read_text()
    losses = steps_of(log)
    assert sorted(losses) == list(range(1, STEPS + 1))
    quiet = run(plan, steps=STEPS, seed=1, data=f"{tmp_path}/data.py:batches")
    assert quiet is not None
    assert [losses[s] for s in sorted(losses)] == pytest.approx(quiet.losses, rel=2e-5)


def test_places_are_devices() -> None:
    cluster = local_cluster(3)
    assert placed([Place("h2", 0), Place("h0", 0), Place("h0", 1)], cluster) == (2, 0, 1)
    with pytest.raises(InputError, match=r"^host 'x' is not in cluster 'local-3' \(h0, h2\): give it its name there"):
        placed([Place("x", 0)], cluster)
    with pytest.raises(InputError, match=r"^host 'h0' has 1 processes, and 2 devices in cluster 'local-3': start "):
        placed([Place("h0", 0), Place("h2", 0)], cluster)


def plans_for_two_of_four(store: str) -> list[str | tuple[int, ...]]:
    graph = chain_graph(8, forward_s=1e-3)
    plan = make_plan(graph, [0, 0, 1, 1, 2, 2, 3, 3], [(0,), (1,), (2,), (3,)], num_microbatches=4)
    lines: list[str] = []

    def fewer(plan: Plan, cluster: Cluster) -> Plan:
        devices = [(d,) for d in range(4)]
        made = make_plan(graph, [0, 0, 1, 1, 2, 2, 3, 3], devices, num_microbatches=4)
        return dataclasses.replace(made, cluster=cluster)

    def none(plan: Plan, cluster: Cluster) -> Plan:
        raise InfeasibleError("nothing fits")

    out: list[str | tuple[int, ...]] = []
    whole, order = plan_for_those_here(plan, (1, 0, 3, 2), None, Path(store), lines.append)
    out += [order, whole.cluster.name]
    five = dataclasses.replace(plan, cluster=local_cluster(5))
    for _ in range(2):
        made, order = plan_for_those_here(five, (4, 1, 0, 2), fewer, Path(store), lines.append)
        out += [order, made.cluster.name]
    for replan in (None, none):
        try:
            plan_for_those_here(five, (3, 1, 0, 2), replan, Path(store), lines.append)
        except (InputError, ExecutionError) as error:
            out.append(str(error))
    return out + lines if dist.get_rank() == 0 else out


def test_the_plan_for_those_that_are_there(pool: WorkerPool, tmp_path: Path) -> None:
    first, *others = pool.run(plans_for_two_of_four, str(tmp_path / "store"))
    assert first[: len(others[0])] == others[0] == others[2]
    assert first == [
        (1, 0, 3, 2),
        "local-4",
        (3, 1, 0, 2),
        "local-5-4",
        (3, 1, 0, 2),
        "local-5-4",
        "4 of 5 devices are there: a run that restarts in place waits for all hosts, so give torchrun --nnodes 3",
        "no plan for the 4 devices that are there: nothing fits",
        "elastic: planning for h0, h2, h4, 4 of 5 devices",
        "elastic: going on with the plan for h0, h2, h4",
        "elastic: planning for h0, h2, 4 of 5 devices",
    ]


def test_a_start_shares_nothing_with_the_one_before() -> None:
    store = dist.HashStore()
    starts = []
    for _ in range(2):
        parts: list[Store] = [store] * 3

        def join(rank: int, parts: list[Store] = parts) -> None:
            parts[rank] = fresh_store(store, rank, 3)

        threads = [threading.Thread(target=join, args=(rank,)) for rank in (2, 1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        parts[0].set("key", "value")
        assert parts[2].get("key") == parts[1].get("key") == b"value"
        starts.append(parts)
    assert starts[1][0].check(["other"]) is False
    starts[0][1].set("other", "1")
    assert starts[1][0].check(["other"]) is False


def test_hosts_need_a_folder_that_they_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = source_plan("chain", {"linear_1": 1}, [(0,), (1,)], tmp_path, num_devices=2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="goes on from checkpoints: give a folder that all of them share"):
        run(plan, elastic=Elastic())
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE is not 1: torchrun would leave a host"):
        run(plan, elastic=Elastic(), checkpoint=tmp_path)
