"""Generated operator graphs: for pre-training, benchmarks and tests. Costs are drawn, not those of a real model."""

from __future__ import annotations

import numpy as np

from drlpp.graph.op_graph import NO_WORK, REFERENCE, Edge, Op, OpGraph, OpTimes, Work

_MB, _GFLOP = 1e6, 1e9


def chain_graph(
    num_ops: int, *, forward_s: float = 1e-3, tensor_bytes: float = 0.0, param_bytes: float = 0.0
) -> OpGraph:
    """A chain of equal ops whose backward pass takes twice the forward pass; every op saves its output."""
    ops = tuple(
        Op(
            name=f"op{i}",
            kind="synthetic",
            params=(f"p{i}",) if param_bytes else (),
            saved=(f"t{i}",),
            output_bytes=tensor_bytes,
            times={REFERENCE: OpTimes(forward_s, forward_s, forward_s)},
        )
        for i in range(num_ops)
    )
    edges = tuple(Edge(src=f"op{i}", dst=f"op{i + 1}", tensor=f"t{i}") for i in range(num_ops - 1))
    tensors = {f"t{i}": tensor_bytes for i in range(num_ops)}
    params = {f"p{i}": param_bytes for i in range(num_ops)} if param_bytes else {}
    return OpGraph(name=f"chain-{num_ops}", ops=ops, edges=edges, tensor_bytes=tensors, param_bytes=params)


def random_graph(
    rng: np.random.Generator, num_ops: int, *, branching: float = 0.3, skips: float = 0.1, measured: bool = False
) -> OpGraph:
    """A random DAG of a neural network's shape: blocks that fork into branches and join, and skip connections.

    Args:
        branching: probability that an op starts a new branch; 0 gives a chain (plus skips).
        skips: probability of one more edge from a random earlier op.
        measured: give ops times instead of FLOP and bytes.
    """
    open_ends = [0]
    arcs: set[tuple[int, int]] = set()
    for i in range(1, num_ops):
        u = rng.random()
        if len(open_ends) > 1 and u < 0.5 * branching:  # join all branches
            arcs.update((j, i) for j in open_ends)
            open_ends = [i]
        elif u < branching:  # fork: the end stays open for another branch
            arcs.add((int(rng.choice(open_ends)), i))
            open_ends.append(i)
        else:  # go on with one branch
            k = int(rng.integers(len(open_ends)))
            arcs.add((open_ends[k], i))
            open_ends[k] = i
        if i > 1 and rng.random() < skips:
            arcs.add((int(rng.integers(max(0, i - num_ops // 3 - 1), i)), i))
    arcs.update((j, num_ops - 1) for j in open_ends if j != num_ops - 1)

    sizes = rng.lognormal(np.log(4 * _MB), 1.0, num_ops)
    heavy = rng.random(num_ops) < 0.5
    flop = np.where(heavy, rng.lognormal(np.log(2 * _GFLOP), 1.0, num_ops), sizes / 4)
    params = np.where(heavy, rng.lognormal(np.log(2 * _MB), 1.2, num_ops), 0.0)
    ops = []
    for i in range(num_ops):
        moved = 3 * sizes[i]
        work, nothing = Work(flop[i], moved), NO_WORK
        f = flop[i] / 5e12 + moved / 6e11
        ops.append(
            Op(
                name=f"op{i}",
                kind="aten.conv2d" if heavy[i] else "aten.relu",
                params=(f"p{i}",) if heavy[i] else (),
                saved=(f"t{i}",),
                output_bytes=float(sizes[i]),
                times={REFERENCE: OpTimes(f, f, f if heavy[i] else 0.0)} if measured else {},
                forward=nothing if measured else work,
                input_grad=nothing if measured else work,
                weight_grad=work if heavy[i] and not measured else nothing,
            )
        )
    edges = tuple(Edge(src=f"op{a}", dst=f"op{b}", tensor=f"t{a}") for a, b in sorted(arcs))
    return OpGraph(
        name=f"random-{num_ops}",
        ops=tuple(ops),
        edges=edges,
        tensor_bytes={f"t{i}": float(sizes[i]) for i in range(num_ops)},
        param_bytes={f"p{i}": float(params[i]) for i in range(num_ops) if heavy[i]},
    )
