"""Graphs of large models from their shapes: decoders, mixtures of experts, two encoders, and images read by a decoder.

Defaults are the shapes of published models. All are in bfloat16, and their ops say how a group may divide them.

Left out: the patches and the embedding in front of an encoder, which are small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from drlpp.graph.generate.transformers import Transformer, transformer_graph
from drlpp.graph.op_graph import NO_WORK, Edge, Op, OpGraph, Work
from drlpp.graph.splits import Part

_SIZE = 2  # bytes of an element


def decoder(
    layers: int = 80,
    hidden: int = 8192,
    heads: int = 64,
    kv_heads: int = 8,
    ffn: int = 28672,
    vocab: int = 128256,
    seq_len: int = 4096,
    batch_size: int = 1,
    experts: int = 0,
    active: int = 2,
) -> OpGraph:
    """A decoder as Llama 3 (the defaults are its 70B), or with `experts` as Mixtral.

    Raises:
        GraphError: see `Transformer`.
    """
    shape = Transformer(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        vocab=vocab,
        seq=seq_len,
        batch=batch_size,
        experts=experts,
        active=active,
        gated=True,
        rotary=True,
        fused=True,
    )
    return dataclasses.replace(transformer_graph(shape), name=f"decoder-{layers}x{hidden}")


def clip(batch_size: int = 32, image_layers: int = 48, text_layers: int = 32) -> OpGraph:
    """Two encoders side by side and a contrastive loss, as CLIP; the defaults are the shapes of OpenCLIP's ViT-bigG.

    Raises:
        GraphError: see `Transformer`.
    """
    image = _encoder(image_layers, 1664, 16, 8192, 257, batch_size)
    text = _encoder(text_layers, 1280, 20, 5120, 77, batch_size)
    parts = _Parts({"image": transformer_graph(image), "text": transformer_graph(text)})
    joint = 1280
    ends = [
        parts.linear(f"{tower}_projection", parts.end(tower), batch_size, shape.hidden, joint)
        for tower, shape in (("image", image), ("text", text))
    ]
    parts.loss("loss", ends, batch_size, joint)
    return parts.graph(f"clip-{image_layers}-{text_layers}", batch_size)


def vision_language(
    batch_size: int = 1,
    image_layers: int = 45,
    layers: int = 80,
    hidden: int = 8192,
    heads: int = 64,
    kv_heads: int = 8,
    ffn: int = 29568,
    seq_len: int = 4096,
) -> OpGraph:
    """A decoder that reads the tokens of an image encoder among its own, as InternVL (the defaults are its 78B).

    Raises:
        GraphError: see `Transformer`.
    """
    image = _encoder(image_layers, 3200, 25, 12800, 1024, batch_size)
    language = decoder(layers, hidden, heads, kv_heads, ffn, 151674, seq_len, batch_size)
    parts = _Parts({"image": transformer_graph(image), "language": language})
    tokens = batch_size * image.seq
    seen = parts.linear("projection", parts.end("image"), tokens, image.hidden, hidden)
    parts.also_reads("language.embedding", seen)
    return parts.graph(f"vision-language-{image_layers}-{layers}", batch_size)


def _encoder(layers: int, hidden: int, heads: int, ffn: int, seq: int, batch: int) -> Transformer:
    return Transformer(
        layers=layers, hidden=hidden, heads=heads, ffn=ffn, vocab=0, seq=seq, batch=batch, causal=False, fused=True
    )


LARGE_MODELS: dict[str, Callable[..., OpGraph]] = {
    "decoder": decoder,
    "clip": clip,
    "vision-language": vision_language,
}
"""Name -> maker; its parameters are whole numbers."""


class _Parts:
    """Graphs beside each other in one, each with its name before those of its ops, and ops that join them."""

    def __init__(self, parts: Mapping[str, OpGraph]) -> None:
        renamed = [_renamed(graph, name) for name, graph in parts.items()]
        self.ends = {name: graph.ops[-1].name for name, graph in zip(parts, renamed, strict=True)}
        self.ops = [op for graph in renamed for op in graph.ops]
        self.edges = [edge for graph in renamed for edge in graph.edges]
        self.tensor_bytes = {k: v for graph in renamed for k, v in graph.tensor_bytes.items()}
        self.param_bytes = {k: v for graph in renamed for k, v in graph.param_bytes.items()}

    def end(self, part: str) -> str:
        """The last op of a part."""
        return self.ends[part]

    def linear(self, name: str, source: str, rows: int, before: int, after: int) -> str:
        """A projection of `rows` rows of what `source` gives."""
        weights, out = float(before * after), float(rows * after)
        work = Work.of(2.0 * rows * weights, (rows * before + weights + out) * _SIZE, 1, out)
        self.param_bytes[f"{name}.weight"] = weights * _SIZE
        self._add(
            Op(
                name=name,
                kind="aten.linear",
                forward=work,
                input_grad=work,
                weight_grad=work,
                params=(f"{name}.weight",),
                saved=(source,),
                output_bytes=out * _SIZE,
            ),
            [source],
        )
        return name

    def loss(self, name: str, sources: list[str], rows: int, width: int) -> None:
        """Products of all rows with each other, and the cross entropy."""
        pairs = float(rows * rows)
        work = Work.of(2.0 * pairs * width, (2 * rows * width + 3 * pairs) * _SIZE, 3, pairs)
        op = Op(
            name=name,
            kind="aten.cross_entropy_loss",
            forward=work,
            input_grad=work + work,
            weight_grad=NO_WORK,
            saved=tuple(sources),
            output_bytes=4.0,
        )
        self._add(op, sources)

    def also_reads(self, op: str, source: str) -> None:
        """An op of a part reads what another gives, and passes its gradient on."""
        at = next(i for i, o in enumerate(self.ops) if o.name == op)
        moved = 2 * self.tensor_bytes[source]
        streamed = Work.of(0.0, moved, 1, 0.0, moved)
        old = self.ops[at]
        self.ops[at] = dataclasses.replace(old, forward=old.forward + streamed, input_grad=old.input_grad + streamed)
        self.edges.append(Edge(src=source, dst=op, tensor=source))

    def _add(self, op: Op, sources: list[str]) -> None:
        """Adds an op after those that it reads."""
        at = [o.name for o in self.ops]
        self.ops.insert(1 + max(map(at.index, sources)), op)
        self.tensor_bytes[op.name] = op.output_bytes
        self.edges += [Edge(src=source, dst=op.name, tensor=source) for source in sources]

    def graph(self, name: str, samples: int) -> OpGraph:
        """The graph of all, in a topological order."""
        return OpGraph(
            name=name,
            ops=tuple(self.ops),
            edges=tuple(self.edges),
            tensor_bytes=self.tensor_bytes,
            param_bytes=self.param_bytes,
            samples_per_microbatch=samples,
            dtype="bfloat16",
        )


def _renamed(graph: OpGraph, part: str) -> OpGraph:
    def put(name: str) -> str:
        return f"{part}.{name}"

    def parts(of: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(p._replace(tensor=put(p.tensor)) for p in of)

    def ops() -> Iterator[Op]:
        for op in graph.ops:
            splits = tuple(
                dataclasses.replace(s, reads=parts(s.reads), gives=parts(s.gives), keeps=tuple(map(put, s.keeps)))
                for s in op.splits
            )
            yield dataclasses.replace(
                op,
                name=put(op.name),
                module=put(op.module) if op.module else part,
                params=tuple(map(put, op.params)),
                saved=tuple(map(put, op.saved)),
                splits=splits,
            )

    return dataclasses.replace(
        graph,
        ops=tuple(ops()),
        edges=tuple(Edge(src=put(e.src), dst=put(e.dst), tensor=put(e.tensor)) for e in graph.edges),
        tensor_bytes={put(k): v for k, v in graph.tensor_bytes.items()},
        param_bytes={put(k): v for k, v in graph.param_bytes.items()},
    )
