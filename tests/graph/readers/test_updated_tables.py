"""Tables that the backward pass updates itself, in execution traces written by hand."""

import json

import pytest

from drlpp.errors import GraphError
from drlpp.graph.readers import read_graph_text

LOOKUP = "fbgemm::split_embedding_codegen_lookup_adagrad_function"
CPP = "torch::autograd::CppNode<SplitLookupFunction_adagrad_Op>"
ENGINE = "autograd::engine::evaluate_function: "
INDICES, OFFSETS = ("long int", [40], 20), ("long int", [9], 21)


class Trace:
    """Nodes in the Chakra form: a lookup of summed embeddings, a linear layer, and their backward passes."""

    def __init__(self):
        self.nodes = []
        self.add("root", None)

    def add(self, name, parent=1, inputs=(), outputs=(), sequence=-1, thread=1, schema=""):
        number = len(self.nodes) + 1
        attributes = {"rf_id": number, "seq_id": sequence, "tid": thread, "op_schema": schema}
        sides = {
            side: {
                "values": [[key, 100 + key, 0, 1, 4, "cuda:0"] for _, _, key in tensors],
                "shapes": [shape for _, shape, _ in tensors],
                "types": [f"Tensor({dtype})" for dtype, _, _ in tensors],
            }
            for side, tensors in (("inputs", inputs), ("outputs", outputs))
        }
        attrs = [{"name": key, "value": value} for key, value in attributes.items()]
        self.nodes.append({"id": number, "name": name, "ctrl_deps": parent or number, "attrs": attrs, **sides})
        return number

    def layer(self, lookup_inputs, *, lookup=LOOKUP, schema="", sequence=-1):
        pooled, weight, out = ("float", [8, 16], 30), ("float", [4, 16], 31), ("float", [8, 4], 32)
        self.add(lookup, inputs=lookup_inputs, outputs=[pooled], schema=schema, sequence=sequence)
        self.add("aten::linear", inputs=[pooled, weight], outputs=[out], sequence=1)
        engine = self.add(f"{ENGINE}MmBackward0", thread=2)
        self.add("MmBackward0", engine, [out], sequence=1, thread=2)
        engine = self.add(f"{ENGINE}torch::autograd::AccumulateGrad", thread=2)
        self.add("torch::autograd::AccumulateGrad", engine, [weight], thread=2)
        return pooled

    def graph(self, schema="1.1.1-chakra.0.0.4"):
        return read_graph_text(json.dumps({"schema": schema, "nodes": self.nodes}), "x", "file")


def test_a_fused_lookup_has_its_tables_and_not_the_state_of_their_optimizer():
    trace = Trace()
    tables = [("float", [0], 1), ("float", [6400], 2), ("float", [320], 3), ("float", [0, 0], 4)]
    state = ("float", [6400], 5)
    pooled = trace.layer([*tables, ("int", [3], 6), INDICES, OFFSETS, state])
    engine = trace.add(f"{ENGINE}{CPP}", thread=2)
    trace.add(CPP, engine, [pooled], sequence=0, thread=2)
    g = trace.graph()
    assert [op.kind for op in g.ops] == ["fbgemm.split_embedding_codegen_lookup_adagrad_function", "aten.linear"]
    assert g.ops[0].params == ("tensor 2", "tensor 3")
    assert [g.param_bytes[p] for p in g.ops[0].params] == [25600, 1280]
    assert g.ops[1].params == ("tensor 31",)


def test_what_the_backward_pass_changes_in_place_is_a_parameter_if_the_forward_pass_reads_it():
    trace = Trace()
    table = ("float", [100, 16], 2)
    pooled = trace.layer([table, INDICES], lookup="mine::lookup", sequence=0)
    engine = trace.add(f"{ENGINE}LookupBackward0", thread=2)
    inner = trace.add("LookupBackward0", engine, [pooled], sequence=0, thread=2)
    schema = "mine::update(Tensor grad, Tensor(a!) table, Tensor(b!)[] state, float rate=0.1) -> ()"
    trace.add("mine::update", inner, [pooled, table], thread=2, schema=schema)
    g = trace.graph()
    assert g.ops[0].params == ("tensor 2",)
    assert sum(g.param_bytes.values()) == 4 * (1600 + 64)


def test_tensors_that_the_backward_pass_only_reads_are_no_parameters():
    trace = Trace()
    table = ("float", [100, 16], 2)
    pooled = trace.layer([table, INDICES], lookup="mine::lookup", sequence=0)
    engine = trace.add(f"{ENGINE}LookupBackward0", thread=2)
    inner = trace.add("LookupBackward0", engine, [pooled], sequence=0, thread=2)
    trace.add("mine::use", inner, [pooled, table], thread=2, schema="mine::use(Tensor grad, Tensor table) -> Tensor")
    assert trace.graph().ops[0].params == ()


def test_operators_without_a_formula_are_named_with_their_share(caplog):
    trace = Trace()
    pooled = trace.layer([("float", [100, 16], 2), INDICES], lookup="mine::lookup", sequence=0)
    engine = trace.add(f"{ENGINE}LookupBackward0", thread=2)
    trace.add("LookupBackward0", engine, [pooled], sequence=0, thread=2)
    trace.graph()
    assert "file: no FLOP formula for mine.lookup, with 89.0 % of the bytes: counted by their bytes" in caplog.text


def test_a_step_of_nothing_but_a_wrapper_is_refused():
    trace = Trace()
    x = ("float", [8, 4], 1)
    trace.add("_c10d_functional::all_reduce", inputs=[x], outputs=[x], sequence=0)
    engine = trace.add(f"{ENGINE}AllReduceBackward", thread=2)
    trace.add("AllReduceBackward", engine, [x], sequence=0, thread=2)
    with pytest.raises(GraphError, match="file: the last step has no operator with a backward pass"):
        trace.graph()


def flat(nodes):
    """Nodes as PyTorch 2.0 and 2.1 write them (schema 1.0.1)."""
    out = []
    for n in nodes:
        fields = {a["name"]: a["value"] for a in n["attrs"]}
        both = {
            f"{side}{end}": n[f"{side}s"][key]
            for side in ("input", "output")
            for end, key in (("s", "values"), ("_shapes", "shapes"), ("_types", "types"))
        }
        out.append({"name": n["name"], "id": n["id"], "parent": n["ctrl_deps"], **fields, **both})
    return out


def test_the_older_schema_reads_the_same():
    trace = Trace()
    pooled = trace.layer([("float", [6400], 2), INDICES])
    engine = trace.add(f"{ENGINE}{CPP}", thread=2)
    trace.add(CPP, engine, [pooled], sequence=0, thread=2)
    new = trace.graph()
    trace.nodes = flat(trace.nodes)
    old = trace.graph("1.0.1")
    assert (old.ops, old.edges, old.param_bytes) == (new.ops, new.edges, new.param_bytes)


@pytest.mark.parametrize("schema", ["1.0.0", "0.9", "1.0.1-chakra.0.0.4"])
def test_other_schemas_are_named_in_the_refusal(schema):
    trace = Trace()
    trace.layer([])
    with pytest.raises(
        GraphError, match=rf"file: execution trace of schema '{schema}': schemas 1\.0\.1 and 1\.0\.2-chak"
    ):
        trace.graph(schema)
