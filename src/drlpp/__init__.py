"""DRL-PP: plans for pipeline-parallel training, found by a learned agent."""

__version__ = "0.1.0"
