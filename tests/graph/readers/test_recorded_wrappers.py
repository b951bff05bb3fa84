"""Steps of a network under data parallelism, recorded here with gloo: the graph is that of the network alone."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile

from drlpp.graph import REFERENCE
from drlpp.graph.readers import read_graph
from drlpp.graph.readers.recorded_wrappers import wraps

BATCH = 6


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        Block(8),
        Block(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def fully_sharded(module):
    mesh = init_device_mesh("cpu", (1,))
    for child in module:
        if isinstance(child, Block):
            fully_shard(child, mesh=mesh)
    return fully_shard(module, mesh=mesh) or module


WRAPPERS = {
    "alone": lambda m: m,
    "ddp": DistributedDataParallel,
    "fsdp": lambda m: FullyShardedDataParallel(
        m, device_id=torch.device("cpu"), auto_wrap_policy=ModuleWrapPolicy({Block})
    ),
    "fsdp2": fully_sharded,
}


@pytest.fixture(scope="module")
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=list(WRAPPERS))
def traces(request, group, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with warnings.catch_warnings(action="ignore"):
        module = WRAPPERS[request.param](network())
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        images, labels = torch.randn(BATCH, 3, 9, 9), torch.randint(0, 5, (BATCH,))

        def step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images), labels).backward()
            optimizer.step()

        step()
        observer = ExecutionTraceObserver().register_callback(str(folder / "et.json"))
        activities = [ProfilerActivity.CPU]
        with profile(activities=activities, record_shapes=True, execution_trace_observer=observer) as profiler:
            step()
            step()
    profiler.export_chrome_trace(str(folder / "kineto.json"))
    return folder, request.param


KINDS = ["conv2d", "batch_norm", *2 * ["conv2d", "batch_norm", "relu", "conv2d", "add", "relu"]]
KINDS += ["adaptive_avg_pool2d", "flatten", "linear", "cross_entropy_loss"]


def kinds(graph):
    return [op.kind.removeprefix("aten.") for op in graph.ops]


def test_an_execution_trace_has_the_network_without_its_wrapper(traces):
    g = read_graph(traces[0] / "et.json")
    assert kinds(g) == KINDS
    assert sorted(g.param_bytes.values()) == sorted(4.0 * p.numel() for p in network().parameters())
    assert [len(op.params) for op in g.ops if op.params] == [2, 2, 1, 2, 1, 1, 2, 1, 2]
    assert g.samples_per_microbatch == BATCH


def test_a_kineto_trace_has_all_parameters_and_the_samples(traces):
    folder, wrapper = traces
    g = read_graph(folder / "kineto.json")
    found = [k for k in kinds(g) if k in KINDS and k != "add_"]
    assert [k for k in found if k != "add"] == [k for k in KINDS if k != "add"]
    assert sum(g.param_bytes.values()) == sum(4 * p.numel() for p in network().parameters())
    assert g.samples_per_microbatch == BATCH
    if wrapper != "fsdp":  # which keeps all parameters of a block in one
        assert len(g.param_bytes) == len(list(network().parameters()))


def test_both_traces_together_have_times_of_the_network_alone(traces):
    folder, _ = traces
    g = read_graph(folder / f"et.json+{folder / 'kineto.json'}")
    assert kinds(g) == KINDS
    assert all(op.times[REFERENCE].forward_s > 0 for op in g.ops)


@pytest.mark.parametrize(
    ("name", "wrapping"),
    [
        ("c10d::allreduce_", True),
        ("nccl:all_reduce", True),
        ("torch::distributed::reducer::mul_out", True),
        ("FullyShardedDataParallel._pre_forward", True),
        ("FSDP::all_gather (0)", True),
        ("FullyShardedDataParallel.forward", False),
        ("DistributedDataParallel.forward", False),
        ("aten::linear", False),
    ],
)
def test_wrappers_are_known_by_name(name, wrapping):
    assert wraps(name) is wrapping
