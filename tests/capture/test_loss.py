from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from drlpp.capture.loss import ModelWithLoss, takes_target
from drlpp.errors import CaptureError


class Returns(nn.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x, scale=1.0):
        return self.make(x * scale)


X = torch.tensor([1.0, 3.0])


@pytest.mark.parametrize(
    "make",
    [
        torch.sum,
        lambda x: x.sum().reshape(1, 1),
        lambda x: {"loss": x.sum(), "logits": x},
        lambda x: SimpleNamespace(loss=x.sum()),
        lambda x: (x.sum(), x),
        lambda x: [x, x.sum(), None],
        lambda x: (x.sum(), x.argmax(), x),
    ],
)
def test_forms_of_an_output_with_a_loss(make):
    loss = ModelWithLoss(Returns(make), None)(X)
    assert loss.shape == ()
    assert float(loss) == 4.0


def test_loss_function_of_the_output():
    assert float(ModelWithLoss(Returns(lambda x: x), lambda y: y.mean())(X)) == 2.0


def test_a_loss_function_with_a_target_gets_the_last_input():
    module = ModelWithLoss(Returns(lambda x: x), nn.MSELoss())
    assert float(module(X, torch.zeros(2))) == 5.0
    assert float(module(x=X, target=torch.zeros(2))) == 5.0


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (F.cross_entropy, True),
        (nn.CrossEntropyLoss(), True),
        (torch.nn.Identity(), False),
        (lambda output: output, False),
        (lambda output, weight=1.0: output, False),
        (lambda *outputs: outputs[0], False),
        (torch.sum, False),
    ],
)
def test_takes_target(loss_fn, expected):
    assert takes_target(loss_fn) is expected


@pytest.mark.parametrize(
    ("make", "loss_fn", "message"),
    [
        (lambda x: x, None, r"shape \[2\]"),
        (lambda x: (x.sum(), x, x.mean()), None, "tuple without a loss"),
        (lambda x: (x.argmax(), x), None, "tuple without a loss.*a tuple with one scalar tensor"),
        (lambda x: {"logits": x}, None, "without a loss"),
        (lambda x: x, lambda y: 3.0, "loss function returns float"),
        (lambda x: x, lambda y: y, "loss function returns a torch.float32 tensor"),
        (lambda x: x.sum().long(), None, "torch.int64"),
    ],
)
def test_outputs_without_a_usable_loss(make, loss_fn, message):
    with pytest.raises(CaptureError, match=message):
        ModelWithLoss(Returns(make), loss_fn)(X)
