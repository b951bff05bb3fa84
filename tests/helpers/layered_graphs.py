"""Graphs of the shape of a decoder: embedding, a list of layers with residual connections, norm, head, loss."""

from drlpp.graph import Edge, Op, OpGraph, Work

_GFLOP, _MB = 1e9, 1e6


def decoder_graph(num_layers=6, *, tied=False, skip=False, heavy_layer=None):
    """A decoder. `skip`: the first layer's output is also read by the last; `heavy_layer`: takes five times as long."""
    ops, edges, tensors, params = [], [], {}, {}

    def add(name, module, reads, flop=0.1, param=None, size=4 * _MB, grad=True):
        work = Work(flop * _GFLOP, 3 * size)
        if param:
            params[param] = 20 * _MB
        tensors[name] = size
        for r in reads:
            edges.append(Edge(src=r, dst=name, tensor=r, requires_grad=grad and r != "mask"))
        ops.append(
            Op(
                name=name,
                kind="aten.linear" if param else "aten.add",
                module=module,
                forward=work,
                input_grad=work if grad else Work(),
                weight_grad=work if param else Work(),
                params=(param,) if param else (),
                saved=(name,),
                output_bytes=size,
            )
        )
        return name

    add("mask", "model", [], grad=False, size=0.1 * _MB)
    x = first = add("embed", "model.embed_tokens", [], param="model.embed_tokens.weight")
    for i in range(num_layers):
        flop = 50.0 if i == heavy_layer else 10.0
        path = f"model.layers.{i}"
        a = add(f"attn{i}", f"{path}.attn", [x, "mask"], flop, f"{path}.attn.weight")
        x = add(f"res{i}", path, [x, a])
        m = add(f"mlp{i}", f"{path}.mlp", [x], flop, f"{path}.mlp.weight")
        x = add(f"out{i}", path, [x, m, *([first] if skip and i == num_layers - 1 else [])])
        first = x if i == 0 else first
    x = add("norm", "model.norm", [x], param="model.norm.weight")
    x = add("head", "lm_head", [x], 5.0, "model.embed_tokens.weight" if tied else "lm_head.weight")
    add("loss", "", [x], size=4.0)
    return OpGraph(
        name="decoder",
        ops=tuple(ops),
        edges=tuple(edges),
        tensor_bytes=tensors,
        param_bytes=params,
        samples_per_microbatch=2,
    )
