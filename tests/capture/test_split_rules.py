"""Every rule, run on the parts of members: they make the whole result and the whole gradients."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.capture.test_cuts import part
from torch import fx, nn

from drlpp.capture import CapturedModel, capture_module
from drlpp.capture.cuts import PARTIAL, Cut
from drlpp.capture.groups import is_op
from drlpp.capture.split_rules import own_axis, passes_partial_sums, reads_for
from drlpp.capture.splitting import OpDivision, Splitter

aten = torch.ops.aten
SHAPED = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.unflatten.int,
    aten.flatten.using_ints,
}
BIASED = {aten.linear.default: 2, aten.conv1d.default: 2, aten.conv2d.default: 2, aten.addmm.default: 0}


def values_of(captured: CapturedModel) -> dict[fx.Node, Any]:
    """The value of every node."""

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = value = super().run_node(n)
            return value

    found: dict[fx.Node, Any] = {}
    with torch.no_grad():
        Recorder(captured.module).run(*captured.example_inputs.values())
    return found


def run_member(
    group: Sequence[fx.Node],
    division: OpDivision,
    outside: dict[fx.Node, Any],
    whole: dict[fx.Node, Any],
    j: int,
    t: int,
) -> dict[fx.Node, Any]:
    """Runs the nodes of an op on the parts of member j of t."""
    env = dict(outside)
    for node in group:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda x: env[x])
        gives = division.gives[node]
        if node.target in SHAPED | {aten.expand.default} and isinstance(gives, Cut) and gives != PARTIAL:
            shape = part(whole[node], gives, j, t).shape
            env[node] = args[0].expand(shape) if node.target is aten.expand.default else args[0].reshape(shape)
            continue
        if node.target in (aten.split.Tensor, aten.split_with_sizes.default) and gives and gives.sections:
            dim = node.args[2] if len(node.args) > 2 else 0
            sizes = [x.shape[dim] // t for x in whole[node]]
            env[node] = torch.split(args[0], sizes, dim)
            continue
        if node.target is aten.slice.Tensor and gives != division.reads.get(node, {}).get(node.args[0]):
            start, stop = (min(n, whole[node.args[0]].shape[node.args[1]]) for n in node.args[2:4])
            env[node] = args[0].narrow(node.args[1], start // t, (stop - start) // t)
            continue
        if node.target is aten.embedding.default and gives == PARTIAL:
            rows = args[0].shape[0]
            ids = args[1] - j * rows
            own = (ids >= 0) & (ids < rows)
            env[node] = nn.functional.embedding(ids.clamp(0, rows - 1), args[0]) * own.unsqueeze(-1)
            continue
        if node.target is aten.conv2d.default and isinstance(gives, Cut) and gives.dim == 1 and len(args) > 6:
            args = [*args[:6], args[6] // t]
        if node.target is aten.batch_norm.default:
            channels = Cut(0, gives.sections) if gives is not None else None
            kept = [a if a is None or channels is None else part(a, channels, j, t) for a in args[3:5]]
            args = [*args[:3], *(None if a is None else a.detach().clone() for a in kept), *args[5:]]
        place = BIASED.get(node.target)
        if gives == PARTIAL and place is not None and len(args) > place and j:
            args = [torch.zeros_like(a) if i == place and a is not None else a for i, a in enumerate(args)]
        env[node] = node.target(*args, **kwargs)
    return env


def outputs(group: Sequence[fx.Node]) -> list[fx.Node]:
    return [n for n in group if isinstance(n.meta.get("val"), torch.Tensor) and any(u not in group for u in n.users)]


def backward(
    ends: Sequence[fx.Node],
    env: dict[fx.Node, torch.Tensor],
    leaves: Sequence[torch.Tensor],
    seeds: dict[fx.Node, torch.Tensor],
) -> Sequence[torch.Tensor | None]:
    """Gradients of the leaves."""
    if not leaves:
        return []
    return torch.autograd.grad([env[n] for n in ends], leaves, [seeds[n] for n in ends], allow_unused=True)


def check(group: Sequence[fx.Node], division: OpDivision, values: dict[fx.Node, Any], t: int) -> None:
    """Compares the members' results and gradients with those of the whole op."""
    read = list(dict.fromkeys(x for n in group for x in n.all_input_nodes if x not in group))
    cuts = {x: c for n in group for x, c in division.reads.get(n, {}).items() if x in read}
    leaves = {x: values[x].detach().clone() for x in read}
    for x in read:
        leaves[x].requires_grad_(leaves[x].is_floating_point())
    none = OpDivision(division.split, {}, dict.fromkeys(group))
    whole = run_member(group, none, leaves, {}, 0, 1)
    ends = [n for n in outputs(group) if whole[n].is_floating_point()]
    seeds = {n: torch.randn_like(whole[n]) for n in ends}
    learning = [x for x in read if leaves[x].requires_grad]
    grads = backward(ends, whole, [leaves[x] for x in learning], seeds)
    results: dict[fx.Node, list[torch.Tensor]] = {n: [] for n in ends}
    sums = {x: torch.zeros_like(leaves[x]) for x in learning}
    for j in range(t):
        own = {x: part(v, cuts[x], j, t).detach() if x in cuts else v.detach().clone() for x, v in leaves.items()}
        for x in learning:
            own[x].requires_grad_()
        env = run_member(group, division, own, whole, j, t)
        seed = {n: s if (c := division.gives[n]) in (None, PARTIAL) else part(s, c, j, t) for n, s in seeds.items()}
        back = backward(ends, env, [own[x] for x in learning], seed)
        for n in ends:
            results[n].append(env[n])
        for x, g, all_of_it in zip(learning, back, grads, strict=True):
            if g is not None and x in cuts:
                torch.testing.assert_close(g, part(all_of_it, cuts[x], j, t), rtol=1e-3, atol=1e-3)
            elif g is not None:
                sums[x] += g
    for n in ends:
        cut = division.gives[n]
        for j, mine in enumerate(results[n]):
            if cut == PARTIAL:
                torch.testing.assert_close(sum(results[n]), whole[n], rtol=1e-3, atol=1e-3)
            else:
                wanted = whole[n] if cut is None else part(whole[n], cut, j, t)
                torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-3)
    for x, g in zip(learning, grads, strict=True):
        if g is not None and x not in cuts:
            torch.testing.assert_close(sums[x], g, rtol=1e-3, atol=1e-3)


def check_all(captured: CapturedModel) -> set[str]:
    """Checks every division of every op at degree 2 and, where it fits, 4; returns the operators seen."""
    values = values_of(captured)
    nodes = {n.name: n for n in captured.module.graph.nodes}
    learns = [n for n in nodes.values() if isinstance(v := n.meta.get("val"), torch.Tensor) and v.is_floating_point()]
    splitter = Splitter(captured.module.graph, set(learns), captured.graph.samples_per_microbatch)
    seen: set[str] = set()
    for op in captured.graph.ops:
        group = [nodes[m] for m in op.members]
        for division in splitter.divisions(group):
            if division.split.axis == "vocabulary" and not division.split.gives:
                continue  # the members sum inside the operator
            for t in (2, 4):
                if division.split.fits(t):
                    check(group, division, values, t)
                    seen |= {str(n.target) for n in group}
    return seen


class Transformer(nn.Module):
    """Gated, with rotary positions, fewer heads of keys, a bias of heads, and root mean squares in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(32, 16), nn.Parameter(torch.rand(16))
        self.q, self.kv, self.out = nn.Linear(16, 32), nn.Linear(16, 32, bias=False), nn.Linear(32, 16)
        self.gate_up, self.down, self.bias = nn.Linear(16, 48), nn.Linear(24, 16), nn.Embedding(8, 4)
        self.mixed = nn.Linear(16, 24)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        b, s, _ = x.shape
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        q = self.q(h).view(b, s, 4, 8).transpose(1, 2)
        k, v = self.kv(h).view(b, s, 2, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        q = (
            torch.cat([torch.cat([-q[..., 4:], q[..., :4]], dim=-1), q[..., 8:]], dim=-1)
            * torch.arange(s).float()[:, None].cos()
        )
        k, v = (t[:, :, None].expand(b, 2, 2, s, 8).reshape(b, 4, s, 8) for t in (k, v))
        scores = q @ k.transpose(-1, -2) + self.bias(torch.arange(s) % 8).t().reshape(1, 4, 1, s)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, s, 32)
        x = x + self.out(y)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        x = nn.functional.layer_norm(x + self.down(nn.functional.silu(gate) * up), (16,))
        a = self.mixed(x)
        return (a[..., :16].sum(-1) + a[..., 16:].sum(-1)).mean()


class Pictures(nn.Module):
    """Convolutions, patches, attention of the library with one matrix, products of flat tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 1)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.flat, self.token = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.randn(1, 1, 16))
        self.wave, self.square = nn.Conv1d(16, 16, 1), nn.Parameter(torch.randn(1, 16, 16))
        self.added, self.back = nn.Parameter(torch.randn(32)), nn.Parameter(torch.randn(32, 16))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(image).relu()).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x, x[:, :3]], dim=1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        y = torch.addmm(self.added, x.reshape(-1, 16), self.flat)
        y = torch.mm(nn.functional.gelu(y), self.back.T.contiguous().T).view(x.shape)
        z = torch.stack([x, y], dim=1).mean(dim=1)
        z = z + self.wave(z.transpose(1, 2)).transpose(1, 2)
        z = torch.baddbmm(z, z.tanh(), self.square.expand(z.shape[0], -1, -1))
        return torch.where(z > 0, z, z * 0.1).log_softmax(-1).square().sum()


class Depthwise(nn.Module):
    """Convolutions of single channels between those of all; one makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(4, 8, 1), nn.Conv2d(16, 4, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 3, groups=8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.two(nn.functional.silu(self.one(self.up(x)))))).square().mean()


def test_depthwise_convolutions_have_parts_of_the_channels():
    captured = capture_module(Depthwise(), torch.randn(2, 4, 6, 6))
    convolutions = [op for op in captured.graph.ops if "conv2d" in op.kind]
    assert [{split.axis for split in op.splits} for op in convolutions][1:3] == [{"channels"}, {"channels"}]
    assert any("conv2d" in kind for kind in check_all(captured))


class Normed(nn.Module):
    """A residual block with batch norms of the images, of flat features and without parameters, and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList((nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)))
        self.flat, self.out = nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.first(x)).relu_()
        x = nn.functional.max_pool2d(x, 2) + nn.functional.avg_pool2d(self.norms[1](self.second(x)), 2)
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.out(self.flat(x)).square().mean()


def test_batch_norms_and_pools_have_parts_of_the_channels():
    captured = capture_module(Normed(), torch.randn(4, 4, 8, 8))
    norms = [op for op in captured.graph.ops if op.kind == "aten.batch_norm"]
    assert [len(op.splits) for op in norms] == [1, 1, 1]
    assert {split.size for op in norms for split in op.splits} == {8}
    seen = check_all(captured)
    pools = ("batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
    assert not [name for name in pools if f"aten.{name}.default" not in seen]


def test_convolutions_of_wide_groups_are_not_divided():
    captured = capture_module(nn.Conv2d(8, 8, 1, groups=2), torch.randn(2, 8, 4, 4), torch.sum)
    assert not [op for op in captured.graph.ops if "conv2d" in op.kind and op.splits]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "inputs", "operators"),
    [
        (Transformer, torch.arange(16).reshape(2, 8), "linear embedding cat expand unbind softmax slice"),
        (
            Pictures,
            torch.randn(2, 3, 8, 8),
            "conv1d conv2d addmm mm baddbmm numpy_T scaled_dot_product_attention stack where",
        ),
    ],
)
def test_parts_make_the_whole(make, inputs, operators):
    torch.manual_seed(0)
    seen = check_all(capture_module(make(), inputs))
    assert not [name for name in operators.split() if not any(f"aten.{name}." in kind for kind in seen)]


def test_cross_entropy_of_shared_classes_is_the_whole_loss():
    torch.manual_seed(0)
    logits, target = torch.randn(6, 8), torch.tensor([0, 7, 3, -100, 5, 1])
    parts = [part(logits, Cut(1), j, 2) for j in range(2)]
    total = torch.stack([p.logsumexp(1) for p in parts]).logsumexp(0)
    own = [target - 4 * j for j in range(2)]
    picked = sum(
        p.gather(1, o.clamp(0, 3)[:, None])[:, 0] * ((o >= 0) & (o < 4)) for p, o in zip(parts, own, strict=True)
    )
    counts = target != -100
    torch.testing.assert_close(
        ((total - picked) * counts).sum() / counts.sum(), nn.functional.cross_entropy(logits, target)
    )


def test_an_operator_without_a_rule_is_not_divided():
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4, 4)
    node = graph.call_function(aten.flip.default, (x, [1]))
    node.meta["val"] = torch.empty(4, 4)
    assert is_op(node)
    assert reads_for(node, Cut(0)) is None
    assert not passes_partial_sums(node)
    assert own_axis(node, Cut(1)) == "features"
