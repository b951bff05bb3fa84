"""PyTorch models as operator graphs."""

from drlpp.capture.captured import CapturedModel, capture, capture_graph, capture_module
from drlpp.capture.profile import Profile, profile
from drlpp.capture.sources import Example, ModelSource, load_model

__all__ = [
    "CapturedModel",
    "Example",
    "ModelSource",
    "Profile",
    "capture",
    "capture_graph",
    "capture_module",
    "load_model",
    "profile",
]
