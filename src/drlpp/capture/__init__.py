"""PyTorch models as operator graphs."""

from drlpp.capture.captured import CapturedModel, capture, capture_graph, capture_module
from drlpp.capture.hollow import hollow_parameters
from drlpp.capture.initial import initial_values
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
    "hollow_parameters",
    "initial_values",
    "load_model",
    "profile",
]
