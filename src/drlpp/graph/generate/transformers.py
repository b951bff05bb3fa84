"""Operator graphs of transformers of a given shape, without the model: decoders as GPT and Llama, encoders as BERT.

Amounts follow from shapes, kernel by kernel as PyTorch runs them eagerly, so a graph of a published run can be made
from the numbers that its paper prints. Every layer is one block (``layers.3``) of the same ops.

A group of devices may divide a transformer as Megatron does (Shoeybi et al., 2019; Korthikanti et al., 2022): the graph
is then what one member computes and keeps. Heads, the width of the feed-forward part and the vocabulary are divided;
norms, dropout and the residual stream are too where the sequence is. Collectives are ops of the kinds of `COLLECTIVES`
without work: who knows the link gives them times.

Under autocast, parameters, norms and the residual stream stay in float32 and products cast their operands; without it
everything has the type of the graph.

With `experts` the feed-forward part is a mixture: a router sends each token to `active` of them, and each projection is
one grouped product over all experts, as Mixtral runs with fused kernels.

Left out: positions that are learned relative to each other, cross-attention, groups that divide by experts.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from drlpp.errors import GraphError
from drlpp.graph.generate.transformer_splits import with_splits
from drlpp.graph.op_graph import NO_WORK, Edge, Op, OpGraph, Work

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per element of the types that a graph may have."""
COLLECTIVES = ("group.all_reduce", "group.all_gather", "group.reduce_scatter")
"""Kinds of ops in which members of a group exchange values. Backward they do the same, or the other of the last two."""
Attention = Literal["flash", "eager", "fused"]
"""One kernel; two products around a softmax of several kernels; or with one kernel for scale, mask and softmax."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """The shape of a transformer and of its micro-batch.

    Attributes:
        layers, hidden, heads, ffn: number of layers, width, attention heads, width inside the feed-forward part.
        vocab: entries of the embedding and of the head; 0 leaves both out.
        seq, batch: tokens per sample, samples per micro-batch.
        kv_heads, head_dim: heads of keys and values, and width of a head; 0 means `heads` and `hidden / heads`.
        dtype: element type of the products.
        autocast: see the module's text.
        cast_once: under autocast, parameters were cast before: a second pass in the same context finds them cast.
        attention: how attention is computed.
        causal: a token sees those before it only; the one kernel then does half of the work.
        gated: the feed-forward part multiplies two projections (SwiGLU).
        rotary: queries and keys are rotated; else positions are added to the embedding.
        experts, active: experts of a mixture, and those that a token goes to; 0 experts: one feed-forward part.
        dropout: after attention scores, attention and feed-forward part.
        fused: bias, dropout and addition are one kernel, as are bias and activation.
        tied: the head uses the embedding's parameters.
        selective: scores, softmax and dropout of attention that is no one kernel are computed again, not kept.
        tensor: members of the group that divides the transformer.
        sequence: they divide the sequence between the products as well.

    Raises:
        GraphError: a size is below 1, heads or members do not divide, or the type is not known.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int
    seq: int
    batch: int = 1
    kv_heads: int = 0
    head_dim: int = 0
    dtype: str = "bfloat16"
    autocast: bool = False
    cast_once: bool = False
    attention: Attention = "flash"
    causal: bool = True
    gated: bool = False
    rotary: bool = False
    experts: int = 0
    active: int = 2
    dropout: bool = False
    fused: bool = False
    tied: bool = False
    selective: bool = False
    tensor: int = 1
    sequence: bool = False

    def __post_init__(self) -> None:
        if self.tensor < 1 or any(n % self.tensor for n in (self.heads, self.ffn, self.seq if self.sequence else 0)):
            raise GraphError(
                f"transformer for {self.tensor} members with {self.heads} heads, width {self.ffn} and {self.seq} "
                "tokens: members must divide heads and width, and the sequence where it is divided"
            )
        sizes = (self.layers, self.hidden, self.heads, self.ffn, self.seq, self.batch)
        if min(sizes) < 1 or min(self.vocab, self.kv_heads, self.head_dim) < 0:
            raise GraphError(f"transformer {self}: layers, widths, heads, seq and batch must be at least 1")
        if self.heads % (self.kv_heads or self.heads) or (not self.head_dim and self.hidden % self.heads):
            raise GraphError(
                f"transformer with {self.heads} heads, {self.kv_heads} of keys and a width of {self.hidden}: heads "
                "must be a multiple of the heads of keys and divide the width, unless head_dim is given"
            )
        if self.experts < 0 or (self.experts and not (self.gated and 1 <= self.active <= self.experts)):
            raise GraphError(
                f"transformer with {self.experts} experts, {self.active} active, gated {self.gated}: a token goes "
                "to at least 1 and at most all experts, which are gated"
            )
        if self.experts and self.tensor > 1:
            raise GraphError(
                f"transformer with {self.experts} experts for one of {self.tensor} members: give tensor=1; its ops say "
                "how they may be divided"
            )
        if self.dtype not in BYTES:
            raise GraphError(f"transformer of dtype {self.dtype!r}: use one of {', '.join(BYTES)}")

    @property
    def tokens(self) -> int:
        """Tokens per micro-batch."""
        return self.seq * self.batch

    @property
    def member_vocab(self) -> int:
        """Entries of the vocabulary that one member has."""
        return -(-self.vocab // self.tensor)

    @property
    def member_tokens(self) -> int:
        """Tokens of the residual stream that one member has."""
        return self.tokens // self.tensor if self.sequence else self.tokens

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden // self.heads


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """An op's result: the op that makes it, its elements, and bytes per element."""

    maker: str
    elements: float
    size: int

    @property
    def bytes(self) -> float:
        return self.elements * self.size


def _streamed(flop: float, moved: float, kernels: float = 1.0) -> Work:
    """The work of kernels without products."""
    return Work.of(flop, moved, kernels, 0.0, moved)


class _Builder:
    """Collects ops of one transformer."""

    def __init__(self, shape: Transformer) -> None:
        self.shape = shape
        self.low = BYTES[shape.dtype]
        self.stream = 4 if shape.autocast else self.low
        """Bytes per element of the residual stream and of parameters."""
        self.block = ""
        self.again = False
        """Ops that are added keep nothing, and run again in the backward pass."""
        self.gathered_from: dict[str, _Tensor] = {}
        self.ops: list[Op] = []
        self.edges: list[Edge] = []
        self.tensor_bytes: dict[str, float] = {}
        self.param_bytes: dict[str, float] = {}

    def add(
        self,
        name: str,
        kind: str,
        inputs: list[_Tensor],
        out: tuple[float, int],
        works: tuple[Work, Work, Work],
        *,
        saved: list[_Tensor] | None = None,
        keeps_result: bool = False,
        kept: float = 0.0,
        params: float = 0.0,
        shared: str = "",
    ) -> _Tensor:
        """Adds an op with a result of `out` elements and bytes per element; `kept` bytes of its own are saved."""
        name = f"{self.block}.{name}" if self.block else name
        result = _Tensor(name, *out)
        self.tensor_bytes[name] = result.bytes
        keep = [] if self.again else [t.maker for t in saved or []] + [name] * keeps_result
        if kept and not self.again:
            self.tensor_bytes[f"{name}:kept"] = kept
            keep.append(f"{name}:kept")
        parameter = shared or f"{name}.weight"
        if params:
            self.param_bytes[parameter] = params * self.stream
        forward, input_grad, weight_grad = works
        if self.again:
            input_grad = input_grad + forward
        self.ops.append(
            Op(
                name=name,
                kind=kind,
                module=name.rpartition(".")[0],
                forward=forward,
                input_grad=input_grad if inputs else NO_WORK,
                weight_grad=weight_grad if params else NO_WORK,
                params=(parameter,) if params else (),
                saved=tuple(dict.fromkeys(keep)),
                output_bytes=result.bytes,
            )
        )
        self.edges += [Edge(src=m, dst=name, tensor=m) for m in dict.fromkeys(t.maker for t in inputs)]
        return result

    def linear(self, name: str, x: _Tensor, width: int, after: int, *, bias: bool = True, shared: str = "") -> _Tensor:
        """A projection of the last dimension from `width` to `after`."""
        rows = x.elements / width
        flop, weights, low = 2.0 * x.elements * after, float(width * after), self.low
        moved = (x.elements + weights + rows * after) * low
        cast = Work.of(0.0, weights * (4 + low), 1, 0.0, weights * (4 + low)) if self.shape.autocast else NO_WORK
        size = x.elements * (x.size + low)
        cast_x = Work.of(0.0, size, 1, 0.0, size) if x.size != low else NO_WORK
        added = 3 * weights * self.stream
        forward = Work.of(flop, moved, 1, rows * after) + (NO_WORK if self.shape.cast_once else cast) + cast_x
        back = Work.of(flop, moved, 1, x.elements) + cast_x
        weight = Work.of(flop, moved + added, 2, weights, added) + cast
        return self.add(
            name,
            "aten.linear",
            [x],
            (rows * after, low),
            (forward, back, weight),
            saved=[self.gathered_from.get(x.maker, x)] if x.size == low else None,
            kept=(x.elements * low if x.size != low else 0.0) + (weights * low if self.shape.autocast else 0.0),
            params=weights + after * bias,
            shared=shared,
        )

    def exchanged(self, name: str, kind: str, x: _Tensor, elements: float) -> _Tensor:
        """A collective of the group, after which a member has `elements` of x; nothing if it is no group."""
        if self.shape.tensor == 1:
            return x
        return self.add(name, kind, [x], (elements, x.size), (NO_WORK, NO_WORK, NO_WORK))

    def gathered(self, name: str, x: _Tensor) -> _Tensor:
        """The whole of x for a product whose columns are divided; what is kept is the member's part."""
        shape = self.shape
        if not shape.sequence:
            return x
        whole = self.exchanged(name, "group.all_gather", x, float(shape.tokens * shape.hidden))
        self.gathered_from[whole.maker] = x
        return whole

    def summed(self, name: str, x: _Tensor) -> _Tensor:
        """The sum of the members' parts of x, after a product whose rows are divided."""
        shape = self.shape
        kind = "group.reduce_scatter" if shape.sequence else "group.all_reduce"
        return self.exchanged(name, kind, x, float(shape.member_tokens * shape.hidden))

    def product(self, name: str, a: _Tensor, b: _Tensor, flop: float, out: float) -> _Tensor:
        """A batched product of two activations; its backward pass is two of them."""
        moved = a.bytes + b.bytes + out * self.low
        works = (Work.of(flop, moved, 1, out), Work.of(2 * flop, 2 * moved, 2, a.elements + b.elements), NO_WORK)
        return self.add(name, "aten.bmm", [a, b], (out, self.low), works, saved=[a, b])

    def pointwise(
        self,
        name: str,
        kind: str,
        inputs: list[_Tensor],
        out: tuple[float, int],
        *,
        saved: list[_Tensor] | None = None,
        keeps_result: bool = False,
        kept: float = 0.0,
        kernels: tuple[float, float] = (1.0, 1.0),
        params: float = 0.0,
    ) -> _Tensor:
        """An op that is bound by memory: it reads its inputs and writes its result, in `kernels` forward and back."""
        elements, size = out
        read, written = sum(t.bytes for t in inputs), elements * size
        back = sum(t.bytes for t in saved or []) + kept + read + written
        forward = _streamed(elements, (read + written) * kernels[0] + kept, kernels[0])
        grad = _streamed(elements, back * kernels[1], kernels[1])
        weight = _streamed(0.0, 4 * params * self.stream) if params else NO_WORK
        works = (forward, grad, weight)
        return self.add(
            name, kind, inputs, out, works, saved=saved, keeps_result=keeps_result, kept=kept, params=params
        )

    def view_add(self, name: str, x: _Tensor, residual: _Tensor) -> _Tensor:
        """Dropout and the residual addition; with `fused` one kernel. The gradient passes on as it is."""
        drop = self.shape.dropout
        if drop and not self.shape.fused:
            x = self.pointwise(f"{name}_dropout", "aten.dropout", [x], (x.elements, x.size), kept=x.elements)
        mask = x.elements if drop and self.shape.fused else 0.0
        written = residual.elements * residual.size
        forward = _streamed(x.elements, x.bytes + residual.bytes + written + mask)
        back = _streamed(x.elements, mask + x.bytes + written) if mask or x.size != residual.size else NO_WORK
        return self.add(
            name, "aten.add", [x, residual], (residual.elements, residual.size), (forward, back, NO_WORK), kept=mask
        )

    def norm(self, name: str, x: _Tensor) -> _Tensor:
        """Layer norm, or the root mean square that Llama composes of six kernels."""
        width = self.shape.hidden
        if not self.shape.gated or self.shape.fused:
            return self.pointwise(
                name, "aten.layer_norm", [x], (x.elements, self.stream), saved=[x], params=2.0 * width
            )
        return self.pointwise(
            name,
            "aten.rms_norm",
            [x],
            (x.elements, self.stream),
            saved=[x],
            kept=x.elements * 4,
            kernels=(3.0, 4.0),
            params=float(width),
        )

    def attention(self, x: _Tensor) -> _Tensor:
        """Attention over ``q, k, v`` and the projection of its result."""
        shape, low = self.shape, self.low
        heads = shape.heads // shape.tensor
        width, kv = shape.head_width * heads, shape.head_width * -(-(shape.kv_heads or shape.heads) // shape.tensor)
        x = self.gathered("attention.gather", x)
        merged = not shape.gated
        if merged:
            qkv = [self.linear("attention.qkv", x, shape.hidden, width + 2 * kv)]
        else:
            qkv = [
                self.linear(f"attention.{n}", x, shape.hidden, w, bias=False)
                for n, w in (("q", width), ("k", kv), ("v", kv))
            ]
        tokens = shape.tokens
        if shape.rotary:
            sources = [qkv[0]] if merged else qkv[:2]
            rotated = self.pointwise(
                "attention.rotary",
                "aten.mul",
                sources,
                (float(tokens * (width + kv)), low),
                kernels=(1.0, 1.0) if shape.fused else (6.0, 8.0),
            )
            qkv = [rotated, qkv[-1]] if not merged else [rotated, qkv[0]]
        flop, scores = 4.0 * tokens * shape.seq * width, float(shape.batch * heads * shape.seq * shape.seq)
        if shape.attention == "flash":
            flop *= 0.5 if shape.causal else 1.0
            moved = float(tokens * (2 * width + 2 * kv) * low)
            works = (
                Work.of(flop, moved, 1, float(tokens * width)),
                Work.of(2.5 * flop, 2.5 * moved, 2, float(tokens * width)),
                NO_WORK,
            )
            name = "attention.sdpa"
            kept = float(4 * tokens * heads + tokens * width * low)
            kind = "aten.scaled_dot_product_attention"
            mixed = self.add(name, kind, qkv, (float(tokens * width), low), works, saved=qkv, kept=kept)
        else:
            mixed = self.eager_attention(qkv, flop / 2, scores, float(tokens * width))
        return self.summed("attention.sum", self.linear("attention.out", mixed, width, shape.hidden, bias=merged))

    def eager_attention(self, qkv: list[_Tensor], flop: float, scores: float, out: float) -> _Tensor:
        """Scores, softmax (with scale and mask), dropout, weighted sum, and the copies between layouts."""
        shape, low = self.shape, self.low
        fused = shape.attention == "fused"
        soft_size = low if fused or not shape.autocast else 4
        kept = qkv if shape.selective else None
        q = self.pointwise("attention.layout", "aten.clone", qkv, (sum(t.elements for t in qkv), low), saved=kept)
        self.again = shape.selective
        s = self.product("attention.scores", q, qkv[-1], flop, scores)
        if not fused:
            s = self.pointwise("attention.mask", "aten.mul", [s], (scores, low), kernels=(2.0, 1.0))
        p = self.pointwise("attention.softmax", "aten.softmax", [s], (scores, soft_size), keeps_result=True)
        if shape.dropout:
            p = self.pointwise("attention.dropout", "aten.dropout", [p], (scores, soft_size), kept=scores)
        if soft_size != low:
            p = self.pointwise("attention.cast", "aten._to_copy", [p], (scores, low))
        y = self.product("attention.mix", p, qkv[-1], flop, out)
        self.again = False
        return self.pointwise("attention.merge", "aten.clone", [y], (out, low))

    def grouped(self, name: str, x: _Tensor, width: int, after: int, out: float) -> _Tensor:
        """One product of every token that an expert gets with that expert's weights; the result has `out` elements."""
        low, weights, rows = self.low, float(self.shape.experts * width * after), x.elements / width
        flop, moved = 2.0 * x.elements * after, (x.elements + weights + rows * after) * low
        added = 3 * weights * self.stream
        works = (
            Work.of(flop, moved, 1, rows * after),
            Work.of(flop, moved, 1, x.elements),
            Work.of(flop, moved + added, 2, weights, added),
        )
        return self.add(name, "aten._grouped_mm", [x], (out, low), works, saved=[x], params=weights)

    def mixture(self, x: _Tensor) -> _Tensor:
        """Router, tokens in the order of their experts, and the experts; the last product adds up what a token gets."""
        shape = self.shape
        sent, kept = float(shape.tokens * shape.active), 12.0 * shape.tokens * shape.active
        scores = self.linear("mlp.router", x, shape.hidden, shape.experts, bias=False)
        order = self.pointwise("mlp.route", "aten.topk", [scores], (sent, 4), kept=kept, kernels=(4.0, 4.0))
        size = (sent * shape.hidden, self.low)
        x = self.pointwise("mlp.dispatch", "aten.index_select", [x, order], size)
        gate = self.grouped("mlp.expert_gate", x, shape.hidden, shape.ffn, sent * shape.ffn)
        up = self.grouped("mlp.expert_up", x, shape.hidden, shape.ffn, sent * shape.ffn)
        n = (1.0, 1.0) if shape.fused else (2.0, 2.0)
        size = (gate.elements, gate.size)
        h = self.pointwise("mlp.expert_swiglu", "aten.silu", [gate, up], size, saved=[gate, up], kernels=n)
        return self.grouped("mlp.expert_down", h, shape.ffn, shape.hidden, float(shape.tokens * shape.hidden))

    def feed_forward(self, x: _Tensor) -> _Tensor:
        if self.shape.experts:
            return self.mixture(x)
        shape, ffn = self.shape, self.shape.ffn // self.shape.tensor
        x = self.gathered("mlp.gather", x)
        if shape.gated:
            gate = self.linear("mlp.gate", x, shape.hidden, ffn, bias=False)
            up = self.linear("mlp.up", x, shape.hidden, ffn, bias=False)
            n = (1.0, 1.0) if shape.fused else (2.0, 2.0)
            h = self.pointwise(
                "mlp.swiglu", "aten.silu", [gate, up], (gate.elements, gate.size), saved=[gate, up], kernels=n
            )
        else:
            up = self.linear("mlp.up", x, shape.hidden, ffn)
            h = self.pointwise("mlp.gelu", "aten.gelu", [up], (up.elements, up.size), saved=[up])
        return self.summed("mlp.sum", self.linear("mlp.down", h, ffn, shape.hidden, bias=not shape.gated))

    def layer(self, index: int, x: _Tensor) -> _Tensor:
        self.block = f"layers.{index}"
        x = self.view_add("attention.add", self.attention(self.norm("norm1", x)), x)
        x = self.view_add("mlp.add", self.feed_forward(self.norm("norm2", x)), x)
        self.block = ""
        return x

    def embedding(self) -> _Tensor:
        shape = self.shape
        elements, params = float(shape.tokens * shape.hidden), float(shape.member_vocab * shape.hidden)
        positions = 0.0 if shape.rotary else float(shape.seq * shape.hidden)
        kernels = 1.0 if shape.rotary else 2.0
        moved = elements * self.stream
        x = self.add(
            "embedding",
            "aten.embedding",
            [],
            (elements, self.stream),
            (
                _streamed(0.0, 2 * kernels * moved, kernels),
                NO_WORK,
                _streamed(0.0, 2 * moved + 4 * params * self.stream, 2),
            ),
            params=params,
        )
        if positions:
            self.param_bytes["positions.weight"] = positions * self.stream
            self.ops[-1] = dataclasses.replace(self.ops[-1], params=(*self.ops[-1].params, "positions.weight"))
        x = self.summed("embedding_sum", x)
        if shape.dropout:
            x = self.pointwise("embedding_dropout", "aten.dropout", [x], (x.elements, x.size), kept=x.elements)
        return x

    def head(self, x: _Tensor) -> None:
        shape = self.shape
        x = self.gathered("head_gather", self.norm("norm", x))
        shared = "embedding.weight" if shape.tied else ""
        logits = self.linear("head", x, shape.hidden, shape.member_vocab, bias=False, shared=shared)
        n = logits.elements
        # cast to float32, log-softmax, and the same back
        works = (_streamed(2 * n, n * (self.low + 3 * 4), 3), _streamed(n, n * (2 * 4 + 4 + self.low), 2), NO_WORK)
        kept = (4 + self.low) * n  # the softmax, and the gradient of the logits that its backward pass writes beside it
        self.add("loss", "aten.cross_entropy_loss", [logits], (1.0, 4), works, kept=kept)

    def graph(self, source: _Tensor) -> OpGraph:
        shape = self.shape
        x = source
        for i in range(shape.layers):
            x = self.layer(i, x)
        if shape.vocab:
            self.head(x)
        return OpGraph(
            name=f"transformer-{shape.layers}x{shape.hidden}",
            ops=tuple(self.ops),
            edges=tuple(self.edges),
            tensor_bytes=self.tensor_bytes,
            param_bytes=self.param_bytes,
            samples_per_microbatch=shape.batch,
            dtype=shape.dtype,
        )


def transformer_graph(shape: Transformer) -> OpGraph:
    """The graph of a transformer; without a vocabulary it starts with an empty op that stands for the input."""
    b = _Builder(shape)
    if shape.vocab:
        graph = b.graph(b.embedding())
    else:
        size = (float(shape.member_tokens * shape.hidden), b.stream)
        graph = b.graph(b.add("input", "input", [], size, (NO_WORK, NO_WORK, NO_WORK)))
    if shape.tensor > 1:  # it is divided already
        return graph
    heads = (shape.heads, shape.kv_heads or shape.heads)
    return with_splits(graph, heads=heads, ffn=shape.ffn, vocabulary=shape.vocab, sequence=shape.seq)
