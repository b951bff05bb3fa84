"""Classes of op kinds."""

import pytest

from drlpp.agent.view.op_classes import KIND_CLASSES, NUM_KIND_CLASSES, kind_class


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("aten.conv2d.default", "convolution"),
        ("aten.addmm", "matrix product"),
        ("aten.scaled_dot_product_attention", "attention"),
        ("aten.add", "join"),
        ("LSTM", "recurrent"),
        ("aten.cross_entropy_loss", "loss"),
    ],
)
def test_known_kinds(kind, name):
    assert KIND_CLASSES[kind_class(kind)][0] == name


def test_an_unknown_kind_is_the_last_class():
    assert kind_class("something") == NUM_KIND_CLASSES - 1
