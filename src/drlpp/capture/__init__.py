"""PyTorch models as operator graphs."""

from drlpp.capture.captured import CapturedModel
from drlpp.capture.capturing import capture, capture_graph, capture_module
from drlpp.capture.profile import Profile, database_name, profile
from drlpp.capture.sources.fake_parameters import hollow_parameters
from drlpp.capture.sources.initial_values import initial_values
from drlpp.capture.sources.load import load_model
from drlpp.capture.sources.model_source import Example, ModelSource

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
