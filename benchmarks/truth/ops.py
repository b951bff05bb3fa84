"""Single operators: products, attention, convolutions, recurrent layers, kernels that are bound by memory."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from drlpp.cluster import Cluster, Host, device_preset
from drlpp.cost.problem_times import problem_times
from drlpp.graph import Op, OpGraph, Work
from drlpp.problem import PlanningProblem
from truth.rows import Findings, Pair, Row, UnreadableError, columns_of, device_named, number, whole

EAGER = ("neusight", "aceso")
"""Sets of single eager operators, each of which waited for its host."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class OpRow:
    """One measured operator.

    Attributes:
        set: table of measurements and class of operator.
        device: row of the device database.
        dtype: element type.
        kind: as captured graphs name it.
        work: what it does.
        seconds: measured.
        ref: where the row is.
    """

    set: str
    device: str
    dtype: str
    kind: str
    work: Work
    seconds: float
    ref: str


def product_work(m: float, n: float, k: float, size: int, batch: float = 1.0) -> Work:
    """``batch`` products of ``[m, k]`` and ``[k, n]``."""
    return Work.of(2 * batch * m * n * k, batch * size * (m * k + k * n + m * n), 1, batch * m * n)


def streamed(moved: float, kernels: float = 1.0, flop: float = 0.0) -> Work:
    """Kernels that move bytes and compute no product."""
    return Work.of(flop, moved, kernels, 0.0, moved)


_AI_DEVICES = {
    "a100_sxm": "a100-sxm4-80gb",
    "h100_sxm": "h100-sxm5-80gb",
    "h200_sxm": "h200-sxm-141gb",
    "l40s": "l40s-48gb",
    "b200_sxm": "b200-sxm-180gb",
    "gb200": "gb200-186gb",
    "rtx_pro_6000_server": "rtx-pro-6000-96gb",
}


def aiconfigurator(data: Path, findings: Findings) -> Iterator[OpRow]:
    """bf16 products and causal attention."""

    def product(r: Row) -> tuple[str, Work]:
        return "aten.linear", product_work(number(r, "m"), number(r, "n"), number(r, "k"), 2)

    def attention(r: Row) -> tuple[str, Work]:
        batch, seq, width = number(r, "batch_size"), number(r, "isl"), number(r, "head_dim")
        heads, kv_heads = number(r, "num_heads"), number(r, "num_key_value_heads")
        return "aten.scaled_dot_product_attention", attention_work(batch, seq, heads, kv_heads, width)

    for table, part, work in (("gemm", "products", product), ("attention_prefill", "attention", attention)):
        file, columns = f"aiconfigurator/{table}_bf16.csv", Columns(f"aiconfigurator {part}", "bfloat16", _AI_DEVICES)
        yield from flat(findings.each(data / file, columns.set, columns.reader(file, work, findings)))


@dataclasses.dataclass(frozen=True)
class Columns:
    """A table with a column of milliseconds per GPU.

    Attributes:
        set: name of its rows.
        dtype: element type.
        devices: names of the columns -> rows of the device database, where the database does not know the names.
    """

    set: str
    dtype: str
    devices: Mapping[str, str]

    def reader(
        self, file: str, work_of: Callable[[Row], tuple[str, Work]], findings: Findings
    ) -> Callable[[int, Row], list[OpRow]]:
        """A function that makes the operators of a row: one for each GPU that measured it."""

        def read(line: int, row: Row) -> list[OpRow]:
            (kind, work), found = work_of(row), []
            for column in columns_of(row, "_ms"):
                if seconds := number(row, f"{column}_ms") / 1e3:
                    device = findings.express(self.set, functools.partial(device_named, column, self.devices))
                    if device:
                        found.append(OpRow(self.set, device, self.dtype, kind, work, seconds, f"{file}:{line}"))
            return found

        return read


def flat(found: Iterable[Iterable[OpRow]]) -> Iterator[OpRow]:
    """The operators of all rows."""
    return itertools.chain.from_iterable(found)


def attention_work(batch: float, seq: float, heads: float, kv_heads: float, width: float) -> Work:
    """Causal attention in one kernel, bf16."""
    flop = 2 * batch * heads * seq * seq * width
    return Work.of(flop, 2 * batch * seq * width * 2 * (heads + kv_heads), 1, batch * seq * heads * width)


_NEUSIGHT_DEVICES = {
    "p4": "p4-8gb",
    "p100_pcie": "p100-pcie-16gb",
    "v100_pcie_32": "v100-pcie-32gb",
    "t4": "t4-16gb",
    "a100_pcie_40": "a100-pcie-40gb",
    "a100_pcie_80": "a100-pcie-80gb",
    "l4": "l4-24gb",
    "h100_sxm": "h100-sxm5-80gb",
}
_PASSES = {"add": 3, "mul": 3, "div": 3, "ln": 2, "softmax": 2}
"""Tensors that a kernel reads and writes; 2 for those of one operand."""


def neusight(data: Path, findings: Findings) -> Iterator[OpRow]:
    """float32 without TF32, forward."""

    def linear(r: Row) -> tuple[str, Work]:
        return "aten.linear", product_work(number(r, "M"), number(r, "N"), number(r, "K"), 4)

    def bmm(r: Row) -> tuple[str, Work]:
        return "aten.bmm", product_work(number(r, "M"), number(r, "N"), number(r, "K"), 4, number(r, "B"))

    def conv(r: Row) -> tuple[str, Work]:
        kernel, stride, size = whole(r, "kernel"), whole(r, "stride"), whole(r, "size")
        side = (size + 2 * whole(r, "padding") - kernel) // stride + 1
        batch, c_in, c_out = number(r, "batch"), number(r, "c_in"), number(r, "c_out")
        return conv_kind(kernel, kernel, stride), conv_work(
            batch * c_in * size * size, batch * c_out * side * side, c_in, c_out, kernel * kernel, 4
        )

    def elementwise(r: Row) -> tuple[str, Work]:
        name = r["OPName"].removesuffix("u") if r["OPName"] not in ("relu", "gelu") else r["OPName"]
        elements = number(r, "B") * number(r, "H")
        passes = (
            2 if r["OPName"].endswith("u") and r["OPName"] != "relu" and r["OPName"] != "gelu" else _PASSES.get(name, 2)
        )
        return f"aten.{name}", streamed(passes * elements * 4, 1, elements)

    for table, work in (("linear", linear), ("bmm", bmm), ("conv", conv), ("elementwise", elementwise)):
        file, columns = f"neusight/{table}_fp32.csv", Columns(f"neusight {table}", "float32", _NEUSIGHT_DEVICES)
        yield from flat(findings.each(data / file, columns.set, columns.reader(file, work, findings)))


def conv_kind(width: int, height: int, stride: int) -> str:
    """A convolution that fast algorithms serve names its kernel, as capture does."""
    return f"aten.conv2d.{width}x{height}" if stride == 1 and width == height and width in (3, 5) else "aten.conv2d"


def conv_work(inputs: float, outputs: float, c_in: float, c_out: float, kernel: float, size: int) -> Work:
    """A dense convolution of `inputs` elements to `outputs` elements."""
    weights = c_in * c_out * kernel
    return Work.of(2 * outputs * c_in * kernel, size * (inputs + outputs + weights), 1, outputs)


_DEEPBENCH_DEVICES = {"V100": "v100-sxm2-16gb", "T4": "t4-16gb", "P100": "p100-pcie-16gb", "1080Ti": "gtx1080ti-11gb"}
_DTYPES = {"fp32": "float32", "fp16": "float16", "pseudo_fp16": "float16", "float32": "float32", "float16": "float16"}


Works = Callable[[Row, int], Iterator[tuple[str, Work, float]]]
"""A row, and bytes of an element -> kinds, works and seconds of its operators."""


def deepbench(data: Path, findings: Findings) -> Iterator[OpRow]:
    """Products, convolutions forward and backward, recurrent layers."""
    readers: tuple[tuple[str, Works], ...] = (
        ("gemm", _deepbench_gemm),
        ("conv", _deepbench_conv),
        ("recurrent", _deepbench_recurrent),
    )
    for table, works in readers:

        def read(line: int, row: Row, table: str = table, works: Works = works) -> list[OpRow]:
            device, dtype = device_named(row["gpu"], _DEEPBENCH_DEVICES), _named(row["precision"], _DTYPES, "precision")
            ref = f"deepbench/{table}.csv:{line}"
            return [OpRow(f"deepbench {table}", device, dtype, *w, ref) for w in works(row, _BYTES[dtype]) if w[2]]

        yield from flat(findings.each(data / "deepbench" / f"{table}.csv", f"deepbench {table}", read))


def _named(text: str, known: Mapping[str, str], what: str) -> str:
    if text not in known:
        raise UnreadableError(f"{what} {text or 'not stated'} is not known")
    return known[text]


def _deepbench_gemm(row: Row, size: int) -> Iterator[tuple[str, Work, float]]:
    work = product_work(number(row, "m"), number(row, "n"), number(row, "k"), size)
    yield "aten.linear", work, number(row, "ms") / 1e3


def _deepbench_conv(row: Row, size: int) -> Iterator[tuple[str, Work, float]]:
    width, height, batch = number(row, "width"), number(row, "height"), number(row, "batch")
    c_in, c_out, kw, kh = (whole(row, c) for c in ("c_in", "c_out", "kernel_w", "kernel_h"))
    out_w = (width + 2 * number(row, "pad_w") - kw) // number(row, "stride_w") + 1
    out_h = (height + 2 * number(row, "pad_h") - kh) // number(row, "stride_h") + 1
    inputs, outputs = batch * c_in * width * height, batch * c_out * out_w * out_h
    work = conv_work(inputs, outputs, c_in, c_out, kw * kh, size)
    kind = conv_kind(kw, kh, whole(row, "stride_w") * whole(row, "stride_h"))
    for column, results in (("forward", outputs), ("grad_input", inputs), ("grad_weight", c_in * c_out * kw * kh)):
        if seconds := number(row, f"{column}_ms") / 1e3:
            yield kind, dataclasses.replace(work, outputs=float(results)), seconds


def _deepbench_recurrent(row: Row, size: int) -> Iterator[tuple[str, Work, float]]:
    gates = int(_named(row["kind"], {"Vanilla": "1", "GRU": "3", "LSTM": "4"}, "recurrent layer"))
    hidden, batch, steps = number(row, "hidden"), number(row, "batch"), number(row, "timesteps")
    flop = 2 * 2 * gates * hidden * hidden * batch * steps
    moved = size * (2 * gates * hidden * hidden + steps * batch * hidden * (2 + gates))
    for column in ("forward", "grad_input", "grad_weight"):
        if seconds := number(row, f"{column}_ms") / 1e3:
            yield f"aten.{row['kind'].lower().replace('vanilla', 'rnn_relu')}", Work.of(flop, moved, 1, 0.0), seconds


_VIDUR_DEVICES = {"a100": "a100-sxm4-80gb", "h100": "h100-sxm5-80gb", "a40": "a40-48gb"}


def vidur(data: Path, findings: Findings) -> Iterator[OpRow]:
    """Operators of Llama-2 and phi-2 in float16, forward."""

    def read(line: int, row: Row) -> list[OpRow]:
        device, ref = device_named(row["gpu"], _VIDUR_DEVICES), f"vidur/linear_ops_fp16.csv:{line}"
        tokens, width, inner = number(row, "num_tokens"), number(row, "n_embd"), number(row, "n_expanded_embd")
        merged = width * (1 + 2 * number(row, "n_kv_head") / number(row, "n_head"))
        up = inner * (2 if row["use_gated_mlp"] == "True" else 1)
        works = {
            "attn_pre_proj": ("aten.linear", product_work(tokens, merged, width, 2)),
            "attn_post_proj": ("aten.linear", product_work(tokens, width, width, 2)),
            "mlp_up_proj": ("aten.linear", product_work(tokens, up, width, 2)),
            "mlp_down_proj": ("aten.linear", product_work(tokens, width, inner, 2)),
            "input_layernorm": ("aten.layer_norm", streamed(2 * 2 * tokens * width)),
            "mlp_act": ("aten.gelu", streamed(2 * tokens * (up + inner))),
            "add": ("aten.add", streamed(2 * 3 * tokens * width)),
        }
        return [
            OpRow(f"vidur {_part(kind)}", device, "float16", kind, work, seconds, ref)
            for column, (kind, work) in works.items()
            if (seconds := number(row, f"{column}_ms") / 1e3)
        ]

    yield from flat(findings.each(data / "vidur" / "linear_ops_fp16.csv", "vidur", read))


def _part(kind: str) -> str:
    return "products" if kind == "aten.linear" else "memory-bound"


_ACESO_HIDDEN = {"350M": 1024, "1_3B": 2048, "2_6B": 2560, "6_7B": 4096, "13B": 5120}


def aceso(data: Path, findings: Findings) -> Iterator[OpRow]:
    """Operators of Megatron's GPT in float16 on a V100, forward, one GPU."""
    return iter(findings.each(data / "aceso" / "op_times_v100.csv", "aceso", _aceso))


def _aceso(line: int, row: Row) -> OpRow:
    if whole(row, "tp") != 1:
        raise UnreadableError("tensor parallelism")
    if row["model"] != "gpt" or row["size"] not in _ACESO_HIDDEN:
        raise UnreadableError(f"shapes of {row['model']} are not in the table")
    width, rows = _ACESO_HIDDEN[row["size"]], 2048.0 * number(row, "micro_batch")
    works = {
        "enc-attention-qkv": ("aten.linear", product_work(rows, 3 * width, width, 2)),
        "enc-attention-dense": ("aten.linear", product_work(rows, width, width, 2)),
        "enc-MLP-GEMM-1": ("aten.linear", product_work(rows, 4 * width, width, 2)),
        "enc-MLP-GEMM-2": ("aten.linear", product_work(rows, width, 4 * width, 2)),
        "enc-1st-layernorm": ("aten.layer_norm", streamed(4 * rows * width)),
        "enc-MLP-gelu": ("aten.gelu", streamed(16 * rows * width)),
        "enc-post-MLP-dropout": ("aten.dropout", streamed(7 * rows * width)),
    }
    if row["op"] not in works:
        raise UnreadableError("operators whose kernels the table does not name")
    kind, work = works[row["op"]]
    seconds, ref = number(row, "forward_us") / 1e6, f"aceso/op_times_v100.csv:{line}"
    return OpRow(f"aceso {_part(kind)}", "v100-sxm2-32gb", "float16", kind, work, seconds, ref)


def all_ops(data: Path, findings: Findings) -> Iterator[OpRow]:
    """Every measured operator that can be expressed."""
    for read in (aiconfigurator, neusight, deepbench, vidur, aceso):
        for row in read(data, findings):
            if row.seconds > 0 and any(row.work.amounts) and min(row.work.amounts) >= 0:
                yield row
            else:
                findings.leave_out(row.set, "sizes or times that are no positive numbers")


def predict_ops(rows: Iterable[OpRow]) -> list[float]:
    """Seconds as a problem with these operators has them, in the order of the rows; of eager sets with the host's."""
    by_device: dict[tuple[str, str], list[tuple[int, OpRow]]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_device[row.device, row.dtype].append((i, row))
    seconds: dict[int, float] = {}
    for (device, dtype), numbered in by_device.items():
        ops = tuple(Op(name=str(i), kind=row.kind, forward=row.work) for i, row in numbered)
        kind = dataclasses.replace(device_preset(device), host_op_s=0.0)
        cluster = Cluster("one", (kind,), (Host(name="h", devices=(kind.name,)),))
        graph = OpGraph(name="ops", ops=ops, edges=(), tensor_bytes={}, dtype=dtype)
        times = problem_times(PlanningProblem.build(graph, cluster)).forward_s[0]
        host_s = device_preset(device).host_op_s
        for (i, row), kernel_s in zip(numbered, times.tolist(), strict=True):
            seconds[i] = kernel_s + (host_s if row.set.split()[0] in EAGER else 0.0)
    return [seconds[i] for i in range(len(seconds))]


def run(data: Path, findings: Findings) -> None:
    """Adds a pair per operator."""
    rows = list(all_ops(data, findings))
    for row, predicted in zip(rows, predict_ops(rows), strict=True):
        name = f"{row.set}, {row.device}" + (f", {row.dtype}" if row.set.startswith("deepbench") else "")
        findings.add(Pair(name, "time", predicted, row.seconds, ref=row.ref))
