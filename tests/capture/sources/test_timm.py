from __future__ import annotations

import sys

import pytest
import torch

from drlpp.capture import capture, load_model
from drlpp.capture.sources.timm import classification_loss
from drlpp.errors import CaptureError


def test_options_reach_the_model_and_the_inputs():
    example = load_model("timm:test_vit?batch_size=3&image_size=96&num_classes=7&in_chans=1").build()
    images, labels = example.args
    assert images.shape == (3, 1, 96, 96)
    assert labels.shape == (3,)
    assert int(labels.max()) < 7
    assert example.module.num_classes == 7


def test_img_size_is_the_same_option():
    example = load_model("timm:test_resnet?img_size=96&batch_size=1").build(device="meta")
    assert example.args[0].shape == (1, 3, 96, 96)


def test_without_classes_the_loss_is_the_mean_square():
    captured = capture(load_model("timm:test_vit?num_classes=0&batch_size=2"))
    assert captured.inputs == ("args_0",) or len(captured.inputs) == 1


def test_dtype():
    captured = capture(load_model("timm:test_vit?dtype=bfloat16&batch_size=2"))
    assert captured.graph.dtype == "bfloat16"


def test_unknown_model_suggests_a_near_one():
    with pytest.raises(CaptureError, match="did you mean 'resnet50'"):
        load_model("timm:resnet5O")


@pytest.mark.parametrize("option", ["no_such_option=1", "num_classes=many"])
def test_wrong_options(option):
    with pytest.raises(CaptureError, match="timm cannot build it"):
        load_model(f"timm:test_vit?{option}").build(device="meta")


def test_timm_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CaptureError, match="pip install"):
        load_model("timm:resnet50")


def test_several_heads_share_the_loss():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    single = classification_loss(logits, labels)
    assert classification_loss([logits, logits], labels) == pytest.approx(float(single))
