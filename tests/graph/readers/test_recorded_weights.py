"""Parameters and samples of recorded steps in which not every parameter gets a gradient, against the models' own."""

import warnings

import pytest
import torch
from torch import nn
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile

from drlpp.graph.readers import read_graph
from drlpp.graph.readers.recorded import RecordedCall, RecordedTensor
from drlpp.graph.readers.recorded_weights import data_of, weights_of


class Adapted(nn.Module):
    """A frozen linear layer with a trained one of low rank beside it."""

    def __init__(self, width, out):
        super().__init__()
        self.frozen = nn.Linear(width, out).requires_grad_(False)
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, out, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


class Bags(nn.Module):
    """Sums of unequal numbers of embeddings beside dense features."""

    def __init__(self):
        super().__init__()
        self.table, self.dense, self.out = nn.EmbeddingBag(50, 8, mode="sum"), nn.Linear(3, 8), nn.Linear(16, 2)

    def forward(self, indices, offsets, dense):
        return self.out(torch.cat([self.table(indices, offsets), self.dense(dense)], 1))


class Expanded(nn.Module):
    """A learned token in front of each sequence."""

    def __init__(self):
        super().__init__()
        self.token, self.out = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(torch.cat([self.token.expand(len(x), -1, -1), x], 1))


def adapted():
    table, norm = nn.Embedding(20, 8).requires_grad_(False), nn.LayerNorm(8).requires_grad_(False)
    return nn.Sequential(table, norm, Adapted(8, 16), nn.ReLU(), Adapted(16, 20))


def frozen_backbone():
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(144, 5)
    for layer in layers[:4]:
        layer.requires_grad_(False)
    return nn.Sequential(*layers)


def tied():
    table, head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
    head.weight = table.weight
    return nn.Sequential(table, nn.Linear(8, 8), head)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


TOKENS = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(0))
MODELS = {
    "frozen with adapters": (adapted, (TOKENS,), 4),
    "frozen backbone": (frozen_backbone, (torch.ones(3, 3, 10, 10),), 3),
    "embeddings of unequal numbers": (Bags, (TOKENS.flatten(), torch.tensor([0, 3, 9, 20]), torch.ones(4, 3)), 4),
    "an expanded parameter": (Expanded, (torch.ones(4, 6, 8),), 4),
    "sequences in the middle": (encoder, (torch.ones(4, 6, 8),), 4),
    "tied": (tied, (TOKENS,), 4),
}


def accumulate(model, inputs):
    model(*inputs).square().mean().backward()


def by_grad(model, inputs):
    torch.autograd.grad(model(*inputs).square().mean(), list(model.parameters()))


def by_function(model, inputs):
    def loss(parameters):
        return torch.func.functional_call(model, parameters, inputs).square().mean()

    torch.func.grad(loss)(dict(model.named_parameters()))


def record(folder, model, inputs, step=accumulate):
    step(model, inputs)
    model.zero_grad()
    observer = ExecutionTraceObserver().register_callback(str(folder / "et.json"))
    with (
        warnings.catch_warnings(action="ignore"),
        profile(activities=[ProfilerActivity.CPU], record_shapes=True, execution_trace_observer=observer) as profiler,
    ):
        step(model, inputs)
    profiler.export_chrome_trace(str(folder / "kineto.json"))
    return [folder / "et.json", folder / "kineto.json", f"{folder / 'et.json'}+{folder / 'kineto.json'}"]


def sizes(parameters):
    return sum(p.nbytes for p in parameters)


@pytest.mark.parametrize("case", MODELS)
def test_parameters_and_samples_are_those_of_the_model(tmp_path, caplog, case):
    build, inputs, samples = MODELS[case]
    torch.manual_seed(0)
    model = build()
    for file in record(tmp_path, model, inputs):
        graph = read_graph(file)
        assert sum(graph.param_bytes.values()) == sizes(model.parameters()), file
        assert sum(graph.param_bytes[p] for p in graph.frozen) == sizes(
            p for p in model.parameters() if not p.requires_grad
        ), file
        assert graph.samples_per_microbatch == samples, file
    assert not caplog.records


def test_a_frozen_backbone_keeps_its_work_and_what_it_sends(tmp_path):
    files = record(tmp_path, frozen_backbone(), MODELS["frozen backbone"][1])
    execution, kineto, _ = (read_graph(f) for f in files)
    assert [op.kind for op in kineto.ops if op.forward.flop] == ["aten.conv2d", "aten.conv2d", "aten.linear"]
    for kind in ("aten.conv2d", "aten.linear", "aten.batch_norm"):
        of_both = [[(op.forward.flop, op.output_bytes) for op in g.ops if op.kind == kind] for g in (execution, kineto)]
        assert of_both[0] == of_both[1]


@pytest.mark.parametrize("step", [by_grad, by_function])
def test_gradients_that_are_not_accumulated_are_said_and_the_weights_counted(tmp_path, caplog, step):
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))
    for file in record(tmp_path, model, (torch.ones(5, 8),), step):
        caplog.clear()
        graph = read_graph(file)
        assert sum(graph.param_bytes.values()) == sizes(model.parameters())
        assert not graph.frozen
        assert all(op.weight_grad.flop for op in graph.ops if op.kind == "aten.linear")
        assert "accumulates no gradient" in caplog.text


def tensor(*shape, dtype="float"):
    return RecordedTensor(shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "inputs", "weights"),
    [
        ("aten::linear", [(4, 8), (2, 8), (2,)], [(2, 8), (2,)]),
        ("aten::addmm", [(2,), (4, 8), (8, 2)], [(2,), (8, 2)]),
        ("aten::embedding", [(9, 8), (4, 6)], [(9, 8)]),
        ("aten::gru", [(4, 6, 8), (1, 4, 8), (24, 8), (24, 8)], [(24, 8), (24, 8)]),
        ("aten::relu", [(4, 8)], []),
    ],
)
def test_weights_are_known_by_their_places(name, inputs, weights):
    call = RecordedCall(id=1, name=name, parent=-1, thread=1, inputs=tuple(tensor(*s) for s in inputs))
    assert [t.shape for t in weights_of(call)] == weights
    assert sorted(t.shape for t in data_of(call)) == sorted(set(inputs) - set(weights))
