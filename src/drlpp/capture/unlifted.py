"""An exported program -> its graph with parameters, buffers and constants as attributes.

`torch.export` hands them to its graph as inputs. `ExportedProgram.module` undoes that too, with guards, copies and
generated code that capture does not need, in a time that grows with the square of the number of parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

_LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR, InputKind.CUSTOM_OBJ)


def unlifted(program: ExportedProgram) -> fx.GraphModule:
    """The program's own graph module, changed in place: its placeholders are what the user gives, its outputs what the
    user gets, and what was lifted is read by ``get_attr`` under the name that it has in the module."""
    module: fx.GraphModule = program.graph_module
    graph = module.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind not in _LIFTED:
            continue
        name = str(spec.target)
        set_attribute(module, name, _value(program, name))
        with graph.inserting_before(node):
            attribute = graph.create_node("get_attr", name)
        attribute.meta = dict(node.meta)
        node.replace_all_uses_with(attribute)
        graph.erase_node(node)
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    specs = program.graph_signature.output_specs
    results: Any = output.args[0]
    output.args = (tuple(r for r, s in zip(results, specs, strict=True) if s.kind is OutputKind.USER_OUTPUT),)
    return module


def _value(program: ExportedProgram, name: str) -> Any:
    return program.state_dict[name] if name in program.state_dict else program.constants[name]


def set_attribute(root: torch.nn.Module, path: str, value: Any) -> None:
    """Sets a parameter, buffer, submodule or constant at a dotted path; makes the modules on the way."""
    *parents, last = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, torch.nn.Module())
        root = getattr(root, part)
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        root.register_buffer(last, value)
    else:
        setattr(root, last, value)
