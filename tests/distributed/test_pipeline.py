"""A training loop of one's own, with all that such loops have, equals the plain module trained by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from drlpp.capture import capture_module, hollow_parameters, initial_values
from drlpp.plan import Plan
from drlpp.runtime import build, load_checkpoint, save_checkpoint
from drlpp.runtime.launch.rank_processes import loopback
from plan_cases import captured_model, make_plan, staged
from small_models import ALL
from worker_pool import WorkerPool

STEPS = 4
MICROBATCHES = 4
CLIP = 0.3


def made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(99)
    return ALL[name]()


def batch_of(inputs: tuple[Any, ...], step: int) -> list[torch.Tensor]:
    torch.manual_seed(step)
    parts = []
    for x in inputs:
        draws = [torch.randn_like(x) if x.is_floating_point() else x[torch.randperm(len(x))] for _ in range(4)]
        parts.append(torch.cat(draws))
    return parts


def schedulers(kind: str, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    if kind == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=2 * STEPS)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))


def optimizer_of(kind: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    group = [{"params": parameters}]
    return torch.optim.NAdam(group, lr=0.01) if kind == "one-cycle" else torch.optim.RMSprop(group, lr=0.01)


def own_loop(
    name: str, plan: Plan, kind: str, autocast: torch.dtype | None, folder: Path
) -> tuple[list[float], list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, norms, learning rates and the state; half of the steps are run after a restart from a checkpoint."""
    losses, norms, rates = [], [], []
    module, inputs = made(name)
    captured = capture_module(module, inputs)
    for half in range(2):
        pipeline = build(captured, plan, state_dict=made(name)[0].state_dict(), autocast=autocast)
        optimizer = optimizer_of(kind, list(pipeline.parameters()))
        scheduler = schedulers(kind, optimizer)
        if half:
            load_checkpoint(folder / f"step-{STEPS // 2}", pipeline, optimizer, scheduler)
        for step in range(half * STEPS // 2, (half + 1) * STEPS // 2):
            batch = dict(zip(captured.inputs, batch_of(inputs, step), strict=True))
            losses.append(pipeline.step(batch).item())
            norms.append(pipeline.clip_grad_norm(CLIP).item())
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        save_checkpoint(folder, pipeline, optimizer, scheduler)
    return losses, norms, rates, pipeline.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "autocast"),
    [("u_shape", "one-cycle", None), ("tied", "lambda", None), ("chain", "one-cycle", torch.bfloat16)],
)
def test_schedulers_clipping_precision_and_restarts(
    pool: WorkerPool, tmp_path: Path, name: str, kind: str, autocast: torch.dtype | None
) -> None:
    graph = captured_model(name).graph
    marks = {"u_shape": {"conv2d_1": 1, "cat": 2}, "tied": {"layer_norm": 1, "linear_1": 2}}
    labels = staged(graph, marks.get(name, {"linear_1": 1, "linear_3": 2}))
    plan = make_plan(graph, labels, [(0,), (1, 2), (3,)], num_microbatches=MICROBATCHES)
    ranks = pool.run(own_loop, name, plan, kind, autocast, tmp_path)

    module, inputs = made(name)
    optimizer = optimizer_of(kind, list(module.parameters()))
    scheduler = schedulers(kind, optimizer)
    losses, norms, rates = [], [], []
    for step in range(STEPS):
        parts = [x.chunk(MICROBATCHES) for x in batch_of(inputs, step)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = torch.stack([module(*micro) for micro in zip(*parts, strict=True)]).mean()
        loss.backward()
        losses.append(loss.item())
        norms.append(nn.utils.clip_grad_norm_(module.parameters(), CLIP).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    rel = 1e-5 if autocast is None else 5e-3
    for theirs_losses, theirs_norms, theirs_rates, _ in ranks:
        assert theirs_losses == pytest.approx(losses, rel=rel)
        assert theirs_norms == pytest.approx(norms, rel=10 * rel)
        assert theirs_rates == pytest.approx(rates)
    assert set().union(*(state for *_, state in ranks)) == set(module.state_dict())


def differing(name: str, plan: Plan) -> dict[str, torch.Tensor]:
    """A loop that forgets to seed the model."""
    import torch.distributed as dist

    torch.manual_seed(dist.get_rank())
    module, inputs = ALL[name]()
    pipeline = build(capture_module(module, inputs), plan)
    pipeline.step()
    return pipeline.state_dict()


def test_copies_begin_equal(pool: WorkerPool) -> None:
    graph = captured_model("tied").graph
    plan = make_plan(graph, staged(graph, {"layer_norm": 1, "linear_1": 2}), [(0,), (1, 2), (3,)], num_microbatches=4)
    states = pool.run(differing, "tied", plan)
    shared = [(0, 3, "table.weight"), (1, 2, "b.weight")]
    assert all(torch.equal(states[a][name], states[b][name]) for a, b, name in shared)


WIDTH, LAYERS = 1536, 8


class Large(nn.Module):
    """Eight layers of 9 MB each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()  # type: ignore[no-any-return]


def resident_bytes(field: str) -> int:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1]) * 1024


def growth(plan: Plan) -> tuple[int, dict[str, torch.Tensor], float]:
    """The largest growth of this rank's memory while it captures and builds; what it holds; and the loss of a step."""
    capture_module(*made("chain"))  # what this loads is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes("VmHWM")
    with hollow_parameters():
        model = Large()
    captured = capture_module(model, (torch.randn(2, WIDTH),))
    pipeline = build(captured, plan, seed=7, make_model=Large)
    peak = resident_bytes("VmHWM") - before
    state = {n: t.double().sum() for n, t in pipeline.state_dict().items()}
    return peak, state, pipeline.step().item()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_no_rank_ever_holds_the_whole_model(pool: WorkerPool) -> None:
    with hollow_parameters():
        graph = capture_module(Large(), (torch.randn(2, WIDTH),)).graph
    per_layer = 4 * WIDTH * (WIDTH + 1)
    found = []
    for stages in (4, 2):
        labels = staged(graph, {f"linear_{i}": i * stages // LAYERS for i in range(1, LAYERS)})
        plan = make_plan(graph, labels, [(d,) for d in range(stages)], num_microbatches=2)
        ranks = pool.run(growth, plan)
        held = LAYERS // stages * per_layer
        for peak, state, _ in ranks[:stages]:
            assert peak < held + 2.5 * per_layer, (peak / per_layer, stages)
            assert len(state) == 2 * LAYERS // stages
        found.append({n: t for _, state, _ in ranks for n, t in state.items()})
    assert found[0] == found[1]
    names = ["layers.0.weight", "layers.7.bias"]
    assert all(found[0][n] == t.double().sum() for n, t in initial_values(Large, names, seed=7).items())
    assert ranks[0][2] == pytest.approx(ranks[3][2])


@pytest.fixture
def no_cycles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cycles of references are not collected."""
    for name, value in loopback().items():
        monkeypatch.setenv(name, value)
    gc.disable()
    yield
    gc.enable()


def gloo_threads() -> int:
    """Skips where they cannot be told from others: gloo gives its threads no names in older releases."""
    if not Path("/proc/self/task").exists() or torch.__version__ < (2, 14):
        pytest.skip("the threads of this process cannot be listed")
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def test_destroyed_group_is_gone_while_the_pipeline_lives(no_cycles: None) -> None:
    """Its threads would else let go of tensors while Python ends, which aborts the process."""
    captured = captured_model("chain")
    plan = make_plan(captured.graph, staged(captured.graph, {}), [(0,)], num_microbatches=2)
    before = gloo_threads()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        pipeline = build(captured, plan, state_dict=made("chain")[0].state_dict())
        pipeline.step()
        assert gloo_threads() > before
    finally:
        dist.destroy_process_group()
    assert gloo_threads() == before
    dropped = weakref.ref(pipeline)
    del pipeline
    assert dropped() is None


def built_and_closed(plan: Plan) -> list[int]:
    """Threads of gloo before a pipeline with sums, while it lives, and when it was closed and dropped."""
    captured = captured_model("chain")
    threads = [gloo_threads()]
    pipeline = build(captured, plan, state_dict=made("chain")[0].state_dict())
    pipeline.step()
    threads.append(gloo_threads())
    pipeline.wait_for_all()
    pipeline.close()
    del pipeline
    return [*threads, gloo_threads()]


def test_a_closed_pipeline_leaves_no_threads(pool: WorkerPool) -> None:
    gloo_threads()
    graph = captured_model("chain").graph
    plan = make_plan(graph, staged(graph, {"linear_1": 1}), [(0, 1), (2, 3)], num_microbatches=4)
    for before, alive, after in pool.run(built_and_closed, plan):
        assert alive > before
        assert after == before
