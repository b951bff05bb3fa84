"""Generated graphs with the shapes and the costs of known kinds of networks, drawn at random sizes.

They serve pre-training and benchmarks. FLOP and bytes follow from layer shapes, so compute, transfers and memory have
realistic proportions; kinds are named as those of captured graphs. They are no substitute for captured models: no
reshapes, no buffers, one output per op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from drlpp.errors import GraphError
from drlpp.graph.generate.synthetic import random_graph
from drlpp.graph.op_graph import NO_WORK, Edge, Op, OpGraph, Work

_FLOAT = 4.0  # bytes per element


class _Builder:
    """Collects ops; `op` returns the new op's index."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.edges: list[Edge] = []
        self.sizes: dict[str, float] = {}
        self.params: dict[str, float] = {}

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        elements: float,
        *,
        flop: float = 0.0,
        params: float = 0.0,
        shared: str = "",
        kept: float = 0.0,
    ) -> int:
        """Adds an op with `elements` output elements and `params` parameter elements (of its own, or `shared`).

        `kept` elements beside its inputs are saved for the backward pass.
        """
        i = len(self.ops)
        name, tensor = f"op{i}", f"t{i}"
        self.sizes[tensor] = elements * _FLOAT
        parameter = shared or (f"p{i}" if params else "")
        if params:
            self.params[parameter] = params * _FLOAT
        read = sum(self.sizes[f"t{j}"] for j in inputs)
        work = Work(max(flop, elements), read + elements * _FLOAT + params * _FLOAT)
        grads = [f"t{j}" for j in inputs] if params else [tensor]
        if kept:
            self.sizes[f"k{i}"] = kept * _FLOAT
            grads.append(f"k{i}")
        self.ops.append(
            Op(
                name=name,
                kind=kind,
                params=(parameter,) if parameter else (),
                saved=tuple(dict.fromkeys(grads)),
                output_bytes=elements * _FLOAT,
                forward=work,
                input_grad=work if inputs else NO_WORK,
                weight_grad=work if params else NO_WORK,
            )
        )
        self.edges += [Edge(src=f"op{j}", dst=name, tensor=f"t{j}") for j in dict.fromkeys(inputs)]
        return i

    def linear(self, x: int, tokens: float, before: float, after: float, shared: str = "") -> int:
        flop = 2.0 * tokens * before * after
        return self.op("aten.linear", [x], tokens * after, flop=flop, params=before * after, shared=shared)

    def lstm(self, inputs: Sequence[int], tokens: float, before: float, width: float) -> int:
        """One layer in one direction, all time steps in one op, as cuDNN and ``torch.nn.LSTM`` run it."""
        flop, params = 8.0 * tokens * width * (before + width), 4.0 * width * (before + width + 2)
        return self.op("aten.lstm", inputs, tokens * width, flop=flop, params=params, kept=5.0 * tokens * width)

    def conv(self, x: int, batch: float, side: float, before: float, after: float, kernel: int, stride: int = 1) -> int:
        """Convolution, batch norm and ReLU at output resolution ``side / stride``."""
        out = max(1.0, side // stride)
        flop = 2.0 * batch * out * out * before * after * kernel * kernel
        y = self.op("aten.conv2d", [x], batch * out * out * after, flop=flop, params=before * after * kernel * kernel)
        y = self.op("aten.batch_norm", [y], batch * out * out * after, params=2 * after)
        return self.op("aten.relu", [y], batch * out * out * after)

    def graph(self, name: str, samples: int) -> OpGraph:
        return OpGraph(
            name=name,
            ops=tuple(self.ops),
            edges=tuple(self.edges),
            tensor_bytes=self.sizes,
            param_bytes=self.params,
            samples_per_microbatch=samples,
        )


def _attention_block(
    b: _Builder, x: int, batch: int, seq: int, width: int, memory: int | None = None, memory_seq: int = 0
) -> int:
    """Pre-norm attention with a residual connection; cross-attention if `memory` is given."""
    tokens = batch * seq
    normed = b.op("aten.layer_norm", [x], tokens * width, params=2 * width)
    source, source_seq = (normed, seq) if memory is None else (memory, memory_seq)
    q = b.linear(normed, tokens, width, width)
    k = b.linear(source, batch * source_seq, width, width)
    v = b.linear(source, batch * source_seq, width, width)
    flop = 4.0 * batch * seq * source_seq * width
    attended = b.op("aten.scaled_dot_product_attention", [q, k, v], tokens * width, flop=flop)
    out = b.linear(attended, tokens, width, width)
    return b.op("aten.add", [x, out], tokens * width)


def _feed_forward(b: _Builder, x: int, tokens: float, width: int, factor: int = 4) -> int:
    normed = b.op("aten.layer_norm", [x], tokens * width, params=2 * width)
    hidden = b.linear(normed, tokens, width, factor * width)
    active = b.op("aten.gelu", [hidden], tokens * factor * width)
    out = b.linear(active, tokens, factor * width, width)
    return b.op("aten.add", [x, out], tokens * width)


def _draw(rng: np.random.Generator, *values: int) -> int:
    return int(rng.choice(values))


def transformer(rng: np.random.Generator) -> OpGraph:
    """A stack of equal blocks between an embedding and a large head, tied in half of the draws."""
    b, batch, seq = _Builder(), _draw(rng, 1, 2, 4, 8), _draw(rng, 128, 256, 512, 1024)
    width, layers, vocabulary = _draw(rng, 256, 512, 768, 1024, 2048), int(rng.integers(3, 17)), _draw(rng, 8000, 32000)
    tokens, tied = batch * seq, "embedding" if rng.random() < 0.5 else ""
    x = b.op("aten.embedding", [], tokens * width, params=vocabulary * width, shared=tied)
    for _ in range(layers):
        x = _feed_forward(b, _attention_block(b, x, batch, seq, width), tokens, width)
    x = b.op("aten.layer_norm", [x], tokens * width, params=2 * width)
    x = b.linear(x, tokens, width, vocabulary, shared=tied)
    b.op("aten.cross_entropy_loss", [x], 1.0)
    return b.graph("transformer", batch)


def encoder_decoder(rng: np.random.Generator) -> OpGraph:
    """Two stacks; every layer of the second attends to the output of the first."""
    b, batch, seq = _Builder(), _draw(rng, 2, 4, 8), _draw(rng, 64, 128, 256)
    width, vocabulary = _draw(rng, 256, 512, 768, 1024), _draw(rng, 8000, 32000)
    tokens = batch * seq
    memory = b.op("aten.embedding", [], tokens * width, params=vocabulary * width)
    for _ in range(int(rng.integers(2, 9))):
        memory = _feed_forward(b, _attention_block(b, memory, batch, seq, width), tokens, width)
    x = b.op("aten.embedding", [], tokens * width, params=vocabulary * width)
    for _ in range(int(rng.integers(2, 9))):
        x = _attention_block(b, x, batch, seq, width)
        x = _feed_forward(b, _attention_block(b, x, batch, seq, width, memory, seq), tokens, width)
    x = b.linear(x, tokens, width, vocabulary)
    b.op("aten.cross_entropy_loss", [x], 1.0)
    return b.graph("encoder-decoder", batch)


def gnmt(
    layers: int = 8, width: int = 1024, batch_size: int = 64, seq_len: int = 50, vocabulary: int = 32_000
) -> OpGraph:
    """GNMT (Wu et al., 2016, as in PipeDream's experiments), with residual connections.

    An LSTM encoder, its first layer in both directions, and an LSTM decoder; the first layer of the decoder asks the
    attention for a context that every later layer reads. A layer is one op, so the time steps of one micro-batch do
    not overlap between layers.

    Raises:
        GraphError: a size is below 1, or there are fewer than 2 layers.
    """
    if layers < 2 or min(width, batch_size, seq_len, vocabulary) < 1:
        raise GraphError(
            f"gnmt with layers={layers}, width={width}, batch_size={batch_size}, seq_len={seq_len}, "
            f"vocabulary={vocabulary}: it needs at least 2 layers, and 1 of everything else"
        )
    b, tokens = _Builder(), float(batch_size * seq_len)
    wide = tokens * width

    def stack(x: int, before: float, extra: list[int], first: int) -> int:
        """Layers `first`... of a stack: dropout, LSTM over the input and `extra`, residual from the third layer on."""
        for layer in range(first, layers):
            dropped = b.op("aten.dropout", [x], tokens * before)
            read = dropped
            if extra:
                before += width
                read = b.op("aten.cat", [dropped, *extra], tokens * before)
            y = b.lstm([read], tokens, before, width)
            x = b.op("aten.add", [y, x], wide) if layer >= 2 else y
            before = width
        return x

    source = b.op("aten.embedding", [], wide, params=vocabulary * width)
    source = b.op("aten.dropout", [source], wide)
    ways = [b.lstm([source], tokens, width, width) for _ in range(2)]
    memory = stack(b.op("aten.cat", ways, 2 * wide), 2.0 * width, [], 1)
    target = b.op("aten.embedding", [], wide, params=vocabulary * width)
    target = b.op("aten.dropout", [target], wide)
    first = b.lstm([target], tokens, width, width)
    query = b.linear(first, tokens, width, width)
    keys = b.linear(memory, tokens, width, width)
    pairs = tokens * seq_len
    energy = b.op("aten.tanh", [query, keys], pairs * width)
    score = b.op("aten.matmul", [energy], pairs, flop=2.0 * pairs * width, params=width)
    weight = b.op("aten.softmax", [score], pairs)
    context = b.op("aten.bmm", [weight, memory], wide, flop=2.0 * pairs * width)
    x = stack(first, float(width), [context], 1)
    x = b.linear(x, tokens, width, vocabulary)
    b.op("aten.cross_entropy_loss", [x], 1.0)
    return b.graph(f"gnmt-{layers}", batch_size)


def _image(b: _Builder, batch: int, side: int) -> int:
    return b.op("aten.clone", [], batch * side * side * 3)


def _classifier(b: _Builder, x: int, batch: int, width: float, classes: int = 1000) -> int:
    x = b.op("aten.adaptive_avg_pool2d", [x], batch * width)
    x = b.linear(x, batch, width, classes)
    return b.op("aten.cross_entropy_loss", [x], 1.0)


def vgg(rng: np.random.Generator) -> OpGraph:
    """A chain of convolutions with large activations first and very large linear layers last."""
    b, batch, side = _Builder(), _draw(rng, 4, 8, 16, 32, 64), _draw(rng, 64, 128, 224)
    x, width = _image(b, batch, side), 3
    for after in (64, 128, 256, 512, 512)[: int(rng.integers(3, 6))]:
        for _ in range(int(rng.integers(1, 4))):
            x = b.conv(x, batch, side, width, after, 3)
            width = after
        side //= 2
        x = b.op("aten.max_pool2d", [x], batch * side * side * width)
    hidden = _draw(rng, 1024, 4096)
    x = b.linear(x, batch, side * side * width, hidden)
    x = b.op("aten.relu", [x], batch * hidden)
    x = b.linear(x, batch, hidden, hidden)
    x = b.linear(x, batch, hidden, 1000)
    b.op("aten.cross_entropy_loss", [x], 1.0)
    return b.graph("vgg", batch)


def resnet(rng: np.random.Generator) -> OpGraph:
    """Bottleneck blocks with residual connections in four resolutions."""
    b, batch, side = _Builder(), _draw(rng, 4, 8, 16, 32), _draw(rng, 96, 160, 224)
    width = _draw(rng, 32, 64, 96)
    x = b.conv(_image(b, batch, side), batch, side, 3, width, 7, 2)
    side //= 4
    x = b.op("aten.max_pool2d", [x], batch * side * side * width)
    before = width
    for level in range(4):
        inner, after = width * 2**level, 4 * width * 2**level
        for i in range(int(rng.integers(1, 5))):
            stride = 2 if i == 0 and level else 1
            y = b.conv(x, batch, side, before, inner, 1)
            y = b.conv(y, batch, side, inner, inner, 3, stride)
            skip = b.conv(x, batch, side, before, after, 1, stride) if i == 0 else x
            side //= stride
            y = b.conv(y, batch, side, inner, after, 1)
            x = b.op("aten.add", [y, skip], batch * side * side * after)
            before = after
    _classifier(b, x, batch, before)
    return b.graph("resnet", batch)


def inception(rng: np.random.Generator) -> OpGraph:
    """Modules of three or four branches of convolutions that are concatenated."""
    b, batch, side = _Builder(), _draw(rng, 4, 8, 16, 32), _draw(rng, 149, 224, 299)
    x = b.conv(_image(b, batch, side), batch, side, 3, 32, 3, 2)
    side //= 2
    x = b.conv(x, batch, side, 32, 96, 3, 2)
    side //= 2
    width = 96
    for module in range(int(rng.integers(4, 11))):
        stride = 2 if module % 3 == 2 and side > 8 else 1
        branch = int(rng.integers(32, 129)) * (1 + module // 3)
        ends = [b.op("aten.max_pool2d", [x], batch * (side // stride) ** 2 * width)]
        for depth in range(1, int(rng.integers(3, 5))):
            y, inner = b.conv(x, batch, side, width, branch, 1, stride), branch
            for _ in range(depth - 1):
                y = b.conv(y, batch, side // stride, inner, branch, 3)
            ends.append(y)
        side //= stride
        width += branch * (len(ends) - 1)
        x = b.op("aten.cat", ends, batch * side * side * width)
    _classifier(b, x, batch, width)
    return b.graph("inception", batch)


def densenet(rng: np.random.Generator) -> OpGraph:
    """Blocks in which every layer reads the outputs of all layers before it."""
    b, batch, side, growth = _Builder(), _draw(rng, 4, 8, 16, 32), _draw(rng, 96, 160, 224), _draw(rng, 16, 32, 48)
    width = 2 * growth
    x = b.conv(_image(b, batch, side), batch, side, 3, width, 7, 4)
    side //= 4
    for _ in range(int(rng.integers(2, 5))):
        outputs = [x]
        for _ in range(int(rng.integers(2, 8))):
            joined = b.op("aten.cat", outputs, batch * side * side * width) if len(outputs) > 1 else outputs[0]
            y = b.conv(joined, batch, side, width, 4 * growth, 1)
            outputs.append(b.conv(y, batch, side, 4 * growth, growth, 3))
            width += growth
        x = b.op("aten.cat", outputs, batch * side * side * width)
        x = b.conv(x, batch, side, width, width // 2, 1)
        width, side = width // 2, max(side // 2, 1)
        x = b.op("aten.avg_pool2d", [x], batch * side * side * width)
    _classifier(b, x, batch, width)
    return b.graph("densenet", batch)


def unet(rng: np.random.Generator) -> OpGraph:
    """Down and up again, with a connection across at every resolution."""
    b, batch, side = _Builder(), _draw(rng, 1, 2, 4, 8), _draw(rng, 128, 256)
    width, levels = _draw(rng, 32, 64, 96), int(rng.integers(3, 6))
    x, before = _image(b, batch, side), 3
    kept = []
    for level in range(levels):
        for _ in range(int(rng.integers(1, 4))):
            x = b.conv(x, batch, side, before, width * 2**level, 3)
            before = width * 2**level
        kept.append((x, side, before))
        side //= 2
        x = b.op("aten.max_pool2d", [x], batch * side * side * before)
    x = b.conv(x, batch, side, before, 2 * before, 3)
    before *= 2
    for skip, skip_side, skip_width in reversed(kept):
        side = skip_side
        x = b.op("aten.upsample_nearest2d", [x], batch * side * side * before)
        x = b.op("aten.cat", [x, skip], batch * side * side * (before + skip_width))
        before += skip_width
        for _ in range(int(rng.integers(1, 3))):
            x = b.conv(x, batch, side, before, skip_width, 3)
            before = skip_width
    x = b.conv(x, batch, side, before, 2, 1)
    b.op("aten.cross_entropy_loss", [x], 1.0)
    return b.graph("unet", batch)


def two_tower(rng: np.random.Generator) -> OpGraph:
    """An image tower and a text tower that meet in a loss."""
    b, batch, side, seq = _Builder(), _draw(rng, 4, 8, 16, 32), _draw(rng, 96, 160, 224), _draw(rng, 32, 64, 128)
    width, joint = _draw(rng, 256, 512, 768), 512
    x, before, channels = _image(b, batch, side), 3, _draw(rng, 32, 64)
    for level in range(int(rng.integers(3, 6))):
        for i in range(int(rng.integers(1, 4))):
            stride = 2 if i == 0 else 1
            x = b.conv(x, batch, side, before, channels * 2**level, 3, stride)
            before, side = channels * 2**level, max(side // stride, 1)
    x = b.op("aten.adaptive_avg_pool2d", [x], batch * before)
    x = b.linear(x, batch, before, joint)
    y = b.op("aten.embedding", [], batch * seq * width, params=16000 * width)
    for _ in range(int(rng.integers(2, 9))):
        y = _feed_forward(b, _attention_block(b, y, batch, seq, width), batch * seq, width)
    y = b.op("aten.mean", [y], batch * width)
    y = b.linear(y, batch, width, joint)
    b.op("aten.cross_entropy_loss", [x, y], 1.0)
    return b.graph("two-tower", batch)


def nasnet(rng: np.random.Generator) -> OpGraph:
    """Cells of random wiring, each reading the two cells before it."""
    b, batch, side, width = _Builder(), _draw(rng, 4, 8, 16), _draw(rng, 96, 160, 224), _draw(rng, 32, 64, 128)
    x = b.conv(_image(b, batch, side), batch, side, 3, width, 3, 2)
    side //= 2
    pairs = int(rng.integers(3, 6))
    wiring = [(int(rng.integers(0, 2 + i)), int(rng.integers(0, 2 + i)), int(rng.integers(1, 4))) for i in range(pairs)]
    previous, before = x, width
    for cell in range(int(rng.integers(4, 10))):
        stride = 2 if cell % 3 == 2 and side > 8 else 1
        inner = width * 2 ** (cell // 3)
        side //= stride
        a = b.conv(x, batch, side, before, inner, 1)
        p = b.conv(previous, batch, side, before, inner, 1)
        states = [a, p]
        for left, right, kernel in wiring:
            y = b.conv(states[left], batch, side, inner, inner, 2 * kernel - 1)
            z = states[right] if kernel == 1 else b.conv(states[right], batch, side, inner, inner, kernel)
            states.append(b.op("aten.add", [y, z], batch * side * side * inner))
        read = {i for left, right, _ in wiring for i in (left, right)}
        ends = states[2:] + [states[i] for i in (0, 1) if i not in read]
        previous, before = x, inner * len(ends)
        x = b.op("aten.cat", ends, batch * side * side * before)
    _classifier(b, x, batch, before)
    return b.graph("nasnet", batch)


def recommender(rng: np.random.Generator) -> OpGraph:
    """Many embedding tables, nearly all of the parameters, into a small dense network."""
    b, batch, width = _Builder(), _draw(rng, 256, 1024, 4096), _draw(rng, 32, 64, 128)
    tables = int(rng.integers(4, 27))
    ends = [b.op("aten.embedding", [], batch * width, params=10 ** rng.uniform(4, 6.5) * width) for _ in range(tables)]
    x, before = b.op("aten.clone", [], batch * 13), 13
    for after in (512, 256, width):
        x = b.op("aten.relu", [b.linear(x, batch, before, after)], batch * after)
        before = after
    x = b.op("aten.cat", [x, *ends], batch * width * (tables + 1))
    before = width * (tables + 1)
    for after in [_draw(rng, 512, 1024, 2048, 4096) for _ in range(int(rng.integers(2, 7)))]:
        x = b.op("aten.relu", [b.linear(x, batch, before, after)], batch * after)
        before = after
    x = b.linear(x, batch, before, 1)
    b.op("aten.binary_cross_entropy_loss", [x], 1.0)
    return b.graph("recommender", batch)


def wired_at_random(rng: np.random.Generator) -> OpGraph:
    """`random_graph` with drawn size, branching and skips."""
    return random_graph(rng, int(rng.integers(20, 160)), branching=rng.uniform(0.0, 0.6), skips=rng.uniform(0.0, 0.3))


FAMILIES: dict[str, Callable[[np.random.Generator], OpGraph]] = {
    "transformer": transformer,
    "encoder-decoder": encoder_decoder,
    "vgg": vgg,
    "resnet": resnet,
    "inception": inception,
    "densenet": densenet,
    "unet": unet,
    "two-tower": two_tower,
    "nasnet": nasnet,
    "recommender": recommender,
    "random": wired_at_random,
}
"""Name -> generator of a graph."""
