"""PyTorch models as operator graphs."""

from drlpp.capture.captured import CapturedModel, capture, capture_module
from drlpp.capture.sources import Example, ModelSource, load_model

__all__ = ["CapturedModel", "Example", "ModelSource", "capture", "capture_module", "load_model"]
