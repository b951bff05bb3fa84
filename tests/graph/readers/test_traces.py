"""Traces that PyTorch's profiler writes here, of small models, against what is known of these models."""

import copy
import gzip
import json
import warnings

import pytest
import torch
from torch import nn
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from drlpp.cluster.devices import CPU_PRESET
from drlpp.errors import GraphError
from drlpp.graph import REFERENCE
from drlpp.graph.readers import read_graph, read_graph_text


class Net(nn.Module):
    """Branches, a skip connection, an in-place operator, a view, attention and a convolution."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.relu = nn.ReLU(inplace=True)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, tokens):
        x = self.embedding(tokens)
        q, k = torch.cat([self.relu(self.a(x)), self.b(x)], -1).chunk(2, -1)
        y = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], x[:, None])[:, 0]
        return self.convolution((y + x).transpose(1, 2)).mean()


def record(folder, *, steps=1, with_stack=False, backward=True):
    """Writes et.json and kineto.json of `steps` training steps; returns the model and its input."""
    torch.manual_seed(0)
    model, tokens = Net(), torch.randint(0, 11, (4, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    observer = ExecutionTraceObserver().register_callback(str(folder / "et.json"))
    with (
        warnings.catch_warnings(action="ignore"),
        profile(
            activities=[ProfilerActivity.CPU],
            record_shapes=True,
            with_stack=with_stack,
            execution_trace_observer=observer,
        ) as profiler,
    ):
        for _ in range(steps):
            loss = model(tokens)
            if backward:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    profiler.export_chrome_trace(str(folder / "kineto.json"))
    return model, tokens


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    model, tokens = record(folder, steps=2, with_stack=True)
    return folder, model, tokens


KINDS = ["embedding", "linear", "relu_", "linear", "cat", "chunk", "unsqueeze", "unsqueeze", "unsqueeze"]
KINDS += ["scaled_dot_product_attention", "select", "add", "transpose", "conv1d", "mean"]


def kinds(graph):
    return [op.kind.removeprefix("aten.") for op in graph.ops]


def total(graph, part):
    return sum(getattr(op, part).flop for op in graph.ops)


def test_an_execution_trace_has_the_graph_of_the_last_step(traces):
    folder, model, tokens = traces
    g = read_graph(folder / "et.json")
    assert kinds(g) == KINDS
    names = [op.name for op in g.ops]
    before = {names[i]: {names[j] for j in g.predecessors[i]} for i in range(g.num_ops)}
    embedding, left, relu, right, cat = names[:5]
    assert before[left] == before[right] == {embedding}
    assert before[relu] == {left}
    assert before[cat] == {relu, right}  # what the in-place operator wrote, not what it overwrote
    assert before[names[KINDS.index("add")]] == {embedding, names[KINDS.index("select")]}
    assert g.samples_per_microbatch == len(tokens)
    assert g.dtype == "float32"
    assert not any(op.times for op in g.ops)
    sizes = sorted(4.0 * p.numel() for p in model.parameters())
    assert sorted(g.param_bytes.values()) == sizes
    assert [len(op.params) for op in g.ops if op.params] == [1, 2, 2, 2]
    assert g.ops[0].output_bytes == 4 * 4 * 5 * 8


def test_flop_are_those_of_pytorch(traces):
    folder, model, tokens = traces
    with FlopCounterMode(display=False) as forward:
        loss = model(tokens)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    g = read_graph(folder / "et.json")
    products = [op for op in g.ops if "attention" not in op.kind]  # pytorch counts none for attention on a CPU
    assert sum(op.forward.flop for op in products) == forward.get_total_flops()
    both = sum(op.input_grad.flop + op.weight_grad.flop for op in products)
    assert both == backward.get_total_flops()
    (attention,) = (op for op in g.ops if "attention" in op.kind)
    assert attention.forward.flop == 2 * (2 * 4 * 5 * 5 * 8)
    assert attention.input_grad.flop == 2.5 * attention.forward.flop


def test_a_kineto_trace_is_a_measured_chain(traces):
    folder, model, _ = traces
    g = read_graph(folder / "kineto.json")
    assert kinds(g) == KINDS
    assert g.arcs.tolist() == [[i, i + 1] for i in range(g.num_ops - 1)]
    assert g.measured_on == CPU_PRESET
    assert all(op.times[REFERENCE].forward_s > 0 for op in g.ops)
    assert all(op.times[REFERENCE].input_grad_s > 0 for op in g.ops)
    assert sum(g.param_bytes.values()) == sum(4 * p.numel() for p in model.parameters())
    linear = g.ops[1]
    assert linear.output_bytes == 4 * 4 * 5 * 8  # from the gradient that came back
    assert linear.times[REFERENCE].weight_grad_s == linear.times[REFERENCE].input_grad_s
    assert linear.module.endswith("Linear_0")


def test_both_traces_together_have_graph_and_times(traces):
    folder, _, _ = traces
    exact, chain = read_graph(folder / "et.json"), read_graph(folder / "kineto.json")
    g = read_graph(folder / f"et.json+{folder / 'kineto.json'}")
    assert g.edges == exact.edges
    assert [op.forward for op in g.ops] == [op.forward for op in exact.ops]
    assert [op.times for op in g.ops] == [op.times for op in chain.ops]
    assert [op.module for op in g.ops] == [op.module for op in chain.ops]
    assert g.source.endswith("kineto.json")


def test_threads_of_an_operator_are_part_of_it(traces, tmp_path):
    folder, *_ = traces
    data = json.loads((folder / "et.json").read_text())
    call = next(node for node in data["nodes"] if node["name"] == "aten::empty")
    other = copy.deepcopy(call)
    other["id"] = max(node["id"] for node in data["nodes"]) + 1
    for attribute in other["attrs"]:
        attribute["value"] = {"tid": 99, "rf_id": 10**9}.get(attribute["name"], attribute["value"])
    data["nodes"].append(other)
    (tmp_path / "et.json").write_text(json.dumps(data))
    ours = read_graph(f"{tmp_path / 'et.json'}+{folder / 'kineto.json'}")
    chain = read_graph(folder / "kineto.json")
    assert [op.times for op in ours.ops] == [op.times for op in chain.ops]


def test_compressed_traces_are_read_too(traces, tmp_path):
    folder, model, tokens = traces
    for name in ("et.json", "kineto.json"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    g = read_graph(tmp_path / "kineto.json.gz")
    assert (g.name, g.ops) == ("kineto", read_graph(folder / "kineto.json").ops)
    both = read_graph(tmp_path / f"et.json.gz+{tmp_path / 'kineto.json.gz'}")
    plain = read_graph(folder / f"et.json+{folder / 'kineto.json'}")
    assert (both.name, both.ops, both.edges) == (plain.name, plain.ops, plain.edges)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_stack=True) as profiler:
        model(tokens).backward()
    profiler.export_chrome_trace(str(tmp_path / "own.json.gz"))
    assert [op.kind for op in read_graph(tmp_path / "own.json.gz").ops] == [op.kind for op in g.ops]


@pytest.mark.parametrize(
    "content",
    [None, gzip.compress(b"{}" * 99)[:20]],
    ids=["no file", "cut short"],  # gzip writes the time
)
def test_files_that_cannot_be_decompressed(tmp_path, content):
    path = tmp_path / "kineto.json.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=r"cannot read graph file .*kineto\.json\.gz: .*compressed with gzip"):
        read_graph(path)


def test_compression_is_told_by_content_and_not_by_name(traces, tmp_path):
    data = (traces[0] / "kineto.json").read_bytes()
    (tmp_path / "kineto.json").write_bytes(gzip.compress(data))
    (tmp_path / "kineto.json.gz").write_bytes(data)
    plain = read_graph(traces[0] / "kineto.json")
    assert read_graph(tmp_path / "kineto.json").ops == read_graph(tmp_path / "kineto.json.gz").ops == plain.ops
    (tmp_path / "kineto.json").write_bytes(gzip.compress(b"\xff"))
    with pytest.raises(GraphError, match="kineto.json is not text in UTF-8: byte 0"):
        read_graph(tmp_path / "kineto.json")


def test_a_trace_may_be_the_list_of_its_events(traces, tmp_path):
    """The other form of a Chrome trace, which tools that merge traces write."""
    data = json.loads((traces[0] / "kineto.json").read_text())
    (tmp_path / "kineto.json").write_text(json.dumps(data["traceEvents"]))
    assert read_graph(tmp_path / "kineto.json").ops == read_graph(traces[0] / "kineto.json").ops


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_trace(traces, tmp_path, encoding):
    text = (traces[0] / "et.json").read_text()
    (tmp_path / "et.json").write_bytes(text.encode(encoding))
    (tmp_path / "et.json.gz").write_bytes(gzip.compress(text.encode(encoding)))
    plain = read_graph(traces[0] / "et.json")
    assert read_graph(tmp_path / "et.json").ops == read_graph(tmp_path / "et.json.gz").ops == plain.ops


def test_an_autograd_function_written_in_python_is_an_op(tmp_path):
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return x * weight

        @staticmethod
        def backward(ctx, grad):
            x, weight = ctx.saved_tensors
            return grad * weight, (grad * x).sum(0)

    layer, weight, x = nn.Linear(4, 4), nn.Parameter(torch.ones(4)), torch.randn(2, 4)
    observer = ExecutionTraceObserver().register_callback(str(tmp_path / "et.json"))
    activities = [ProfilerActivity.CPU]
    with (
        warnings.catch_warnings(action="ignore"),
        profile(activities=activities, record_shapes=True, execution_trace_observer=observer) as profiler,
    ):
        Scale.apply(layer(x), weight).sum().backward()
    profiler.export_chrome_trace(str(tmp_path / "kineto.json"))
    for name in ("et.json", "kineto.json"):
        g = read_graph(tmp_path / name)
        assert [op.kind for op in g.ops] == ["aten.linear", "Scale", "aten.sum"]
        assert [len(op.params) for op in g.ops] == [2, 1, 0]


def test_shared_parameters_count_once(tmp_path):
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4, bias=False), torch.randn(2, 4)
    observer = ExecutionTraceObserver().register_callback(str(tmp_path / "et.json"))
    with warnings.catch_warnings(action="ignore"), profile(execution_trace_observer=observer):
        layer(layer(x)).sum().backward()
    g = read_graph(tmp_path / "et.json")
    assert list(g.param_bytes.values()) == [64]
    assert [op.params for op in g.ops] == [tuple(g.param_bytes), tuple(g.param_bytes), ()]


def test_a_trace_without_backward_is_refused(tmp_path):
    record(tmp_path, backward=False)
    for name in ("et.json", "kineto.json"):
        with pytest.raises(GraphError, match="no operator of a backward pass"):
            read_graph(tmp_path / name)


def edited(folder, name, change):
    data = json.loads((folder / name).read_text())
    change(data)
    return data


def nodes(data, prefix):
    return [n for n in data["nodes"] if n["name"].startswith(prefix)]


def drop_attribute(data):
    attributes = data["nodes"][5]["attrs"]
    attributes[:] = [a for a in attributes if a["name"] != "seq_id"]


def drop_forward(data):
    for n in data["nodes"]:
        if n["name"].startswith("aten::"):
            next(a for a in n["attrs"] if a["name"] == "seq_id")["value"] = -1


def forward_after_backward(data):
    for n in data["nodes"]:
        a = next(a for a in n["attrs"] if a["name"] == "seq_id")
        if n["name"].startswith("aten::") and a["value"] >= 0:
            a["value"] += 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_attribute, "has no attribute 'seq_id'"),
        (drop_forward, "no operator of a forward pass"),
        (forward_after_backward, "no backward call belongs to a forward call"),
        (lambda d: d["nodes"][5].pop("inputs"), "an entry has the wrong form"),
    ],
)
def test_bad_execution_traces_are_refused(traces, change, message):
    text = json.dumps(edited(traces[0], "et.json", change))
    with pytest.raises(GraphError, match=rf"file: .*{message}"):
        read_graph_text(text, "x", "file")


def test_a_kineto_trace_without_shapes_is_refused(traces):
    def change(data):
        for e in data["traceEvents"]:
            e.get("args", {}).pop("Input Dims", None)

    with pytest.raises(GraphError, match="profile with record_shapes=True"):
        read_graph_text(json.dumps(edited(traces[0], "kineto.json", change)), "x", "file")


def pair(tmp_path, execution, kineto):
    (tmp_path / "a.json").write_text(json.dumps(execution))
    (tmp_path / "b.json").write_text(json.dumps(kineto))
    return read_graph(tmp_path / f"a.json+{tmp_path / 'b.json'}")


def test_traces_that_do_not_belong_together_are_refused(traces, tmp_path):
    execution, kineto = (json.loads((traces[0] / n).read_text()) for n in ("et.json", "kineto.json"))
    with pytest.raises(GraphError, match="the second a Kineto trace"):
        pair(tmp_path, kineto, execution)
    other = copy.deepcopy(kineto)
    for e in other["traceEvents"]:
        if e.get("name") == "aten::cat":
            e["name"] = "aten::stack"
    with pytest.raises(GraphError, match="'aten::cat' in the execution trace and 'aten::stack' in the Kineto trace"):
        pair(tmp_path, execution, other)
    for e in other["traceEvents"]:
        e.get("args", {}).pop("Record function id", None)
    with pytest.raises(GraphError, match="no call has a record-function id"):
        pair(tmp_path, execution, other)


def test_times_of_a_gpu_are_those_of_its_kernels():
    def event(name, ts, dur, cat="cpu_op", **args):
        return {"ph": "X", "cat": cat, "name": name, "tid": 1, "ts": ts, "dur": dur, "args": args}

    shapes = {"Input Dims": [[2, 4], [4, 4]], "Input type": ["c10::BFloat16", "c10::BFloat16"]}
    events = [
        event("aten::matmul", 0, 10, **shapes, **{"External id": 1, "Sequence number": 0}),
        event("aten::mm", 1, 8, **shapes, **{"External id": 2, "Sequence number": 0}),
        event("autograd::engine::evaluate_function: MmBackward0", 20, 30, **{"External id": 3, "Sequence number": 0}),
        event("MmBackward0", 21, 20, **shapes, **{"External id": 4, "Sequence number": 0}),
        event("gemm", 5, 100, cat="kernel", **{"External id": 2}),
        event("gemm", 30, 150, cat="kernel", **{"External id": 4}),
        event("copy", 40, 50, cat="gpu_memcpy", **{"External id": 4}),
    ]
    data = {"traceEvents": events, "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB"}]}
    g = read_graph_text(json.dumps(data), "x", "file")
    (op,) = g.ops
    assert op.times[REFERENCE].forward_s == pytest.approx(100e-6)
    assert op.times[REFERENCE].input_grad_s == pytest.approx(200e-6)
    assert op.forward.flop == 2 * 2 * 4 * 4
    assert (g.measured_on, g.dtype, g.samples_per_microbatch) == ("a100-sxm4-80gb", "bfloat16", 2)
