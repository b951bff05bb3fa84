"""PyTorch models as operator graphs."""

from drlpp.capture.captured import CapturedModel, capture, capture_graph, capture_module
from drlpp.capture.profile import Profile, database_name, profile
from drlpp.capture.sources import Example, ModelSource, load_model

__all__ = [
    "CapturedModel",
    "Example",
    "ModelSource",
    "Profile",
    "capture",
    "capture_graph",
    "capture_module",
    "database_name",
    "load_model",
    "profile",
]
