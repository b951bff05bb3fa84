from __future__ import annotations

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.errors import CaptureError

GOOD = """
import torch
from helper import WIDTH

def with_loss():
    return torch.nn.Linear(WIDTH, 3), (torch.randn(4, WIDTH), torch.tensor([0, 1, 2, 0])), torch.nn.CrossEntropyLoss()

def scalar():
    class Sum(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).sum()
    return Sum(WIDTH, 3), {"x": torch.randn(4, WIDTH)}

def number():
    return 3

def wrong_loss():
    return torch.nn.Linear(1, 1), torch.ones(1, 1), "mse"

def broken():
    raise ValueError("no weights\\nfound")

value = 1
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("function", ["with_loss", "scalar"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_functions_in_files(file, function, device):
    captured = capture(load_model(f"{file}:{function}"), device=device)
    assert captured.graph.source == f"{file}:{function}"
    assert set(captured.graph.param_bytes) == {"weight", "bias"}
    assert captured.graph.samples_per_microbatch == 4


def test_the_example_is_the_same_every_time(file):
    source = load_model(f"{file}:with_loss")
    assert torch.equal(source.build(seed=3).args[0], source.build(seed=3).args[0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("with_los", "did you mean 'with_loss'"),
        ("value", "has no function 'value'"),
        ("number", "returns int"),
        ("wrong_loss", "loss_fn is str"),
        ("broken", "raises ValueError: no weights found"),
    ],
)
def test_bad_functions(file, function, message):
    with pytest.raises(CaptureError, match=message) as raised:
        load_model(f"{file}:{function}").build()
    assert "\n" not in str(raised.value)


def test_no_such_file():
    with pytest.raises(CaptureError, match=r"no file nowhere\.py"):
        load_model("nowhere.py:make")


def test_a_file_that_cannot_be_imported(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("x = 1\ndef f(:\n")
    with pytest.raises(CaptureError, match=r"bad\.py:2 raises SyntaxError"):
        load_model(f"{path}:f").build()


def test_a_constructor_that_needs_values_gets_them(tmp_path):
    path = tmp_path / "orthogonal.py"
    path.write_text(
        "import torch\n"
        "def make():\n"
        "    layer = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(4, 4))\n"
        "    return layer, torch.ones(2, 4), lambda y: y.sum()\n"
    )
    graph = capture(load_model(f"{path}:make")).graph
    assert graph == capture(load_model(f"{path}:make"), device="cpu").graph
