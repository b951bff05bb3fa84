"""Operators that a file defines stay the same, whatever is built after."""

from __future__ import annotations

import gc

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.errors import CaptureError

OPERATOR = """
import torch
@torch.library.custom_op("{name}", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x
double.register_fake(torch.empty_like)
double.register_autograd(lambda context, g: 2 * g)
"""
MODEL = """
class Doubles(torch.nn.Linear):
    def forward(self, x):
        return double(super().forward(x)).square().mean()
def make():
    return Doubles(4, 4), (torch.randn(2, 4),)
"""


@pytest.fixture
def name(request):
    return f"drlpp_tests_{request.node.name.split('[')[0]}::double"


def test_the_operator_of_a_graph_is_there_after_another_build(tmp_path, name):
    file = tmp_path / "doubles.py"
    file.write_text(OPERATOR.format(name=name) + MODEL)
    graph = capture(load_model(f"{file}:make"), check=False).module.graph
    (target,) = {n.target for n in graph.nodes if "double" in n.name}
    example = load_model(f"{file}:make").build()
    gc.collect()
    namespace, _, operator = name.partition("::")
    assert getattr(getattr(torch.ops, namespace), operator).default is target
    assert torch.equal(target(torch.ones(3)), torch.full((3,), 2.0))
    assert example.module(*example.args).isfinite()


def test_values_are_the_same_every_time(tmp_path, name):
    file = tmp_path / "doubles.py"
    file.write_text(OPERATOR.format(name=name) + MODEL)
    first, second = (load_model(f"{file}:make").build(seed=3) for _ in range(2))
    assert first.module is not second.module
    assert torch.equal(first.module.weight, second.module.weight)
    assert torch.equal(first.args[0], second.args[0])


def test_a_library_of_ones_own(tmp_path, name):
    namespace, _, operator = name.partition("::")
    file = tmp_path / "triples.py"
    file.write_text(
        "import torch\n"
        f"library = torch.library.Library('{namespace}', 'DEF')\n"
        f"library.define('{operator}(Tensor x) -> Tensor')\n"
        f"library.impl('{operator}', lambda x: x.clone(), 'CompositeExplicitAutograd')\n"
        f"torch.library.register_autograd('{name}', lambda context, g: g, lib=library)\n"
        f"double = torch.ops.{namespace}.{operator}.default\n" + MODEL
    )
    assert any("double" in op.name for op in capture(load_model(f"{file}:make")).graph.ops)


def test_what_only_imports_operators_is_executed_anew(tmp_path, name):
    (tmp_path / f"{name.partition('::')[0]}_ops.py").write_text(OPERATOR.format(name=name))
    file = tmp_path / "imports.py"
    file.write_text(
        f"import torch\nfrom {name.partition('::')[0]}_ops import double\n"
        + MODEL
        + "model = Doubles(4, 4)\ndef shared():\n    return model, (torch.ones(2, 4),)\n"
    )
    first, second = (load_model(f"{file}:shared").build() for _ in range(2))
    assert first.module is not second.module


def test_a_model_that_all_builds_would_share(tmp_path, name):
    file = tmp_path / "shares.py"
    file.write_text(OPERATOR.format(name=name) + MODEL + "model = Doubles(4, 4)\n")
    for _ in range(2):
        with pytest.raises(
            CaptureError, match=r"shares\.py defines operators.*'model' at its top level would be shared"
        ):
            load_model(f"{file}:make").build()


@pytest.mark.parametrize("where", ["another file", "the function"])
def test_an_operator_that_is_defined_again(tmp_path, name, where):
    name = f"{name}_{where.replace(' ', '_')}"
    text = OPERATOR.format(name=name) + MODEL
    if where == "the function":
        text = "def make():\n" + "".join(
            f"    {line}\n" for line in text.replace("def make():", "if True:").splitlines()
        )
    file = tmp_path / "first.py"
    file.write_text(text)
    source = load_model(f"{file}:make")
    first = source.build()
    if where == "another file":
        file = tmp_path / "second.py"
        file.write_text(text + "# not the same\n")
    message = (
        rf"^operator {name} is defined a second time in this process, and captured graphs may call the first: define"
    )
    with pytest.raises(CaptureError, match=message):
        load_model(f"{file}:make").build()
    assert first.module(*first.args).isfinite()
