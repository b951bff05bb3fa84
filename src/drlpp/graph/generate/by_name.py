"""Generated graphs by name: ``generated:nasnet?seed=3``, ``generated:gnmt?layers=8``, ``generated:dag?ops=5000``."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from drlpp.errors import GraphError
from drlpp.generator_spec import make_generated
from drlpp.graph.generate.families import FAMILIES, gnmt
from drlpp.graph.generate.large_models import LARGE_MODELS
from drlpp.graph.generate.synthetic import random_graph
from drlpp.graph.op_graph import OpGraph


def dag(ops: int, seed: int = 0) -> OpGraph:
    """A random DAG of a neural network's shape with that many ops."""
    if ops < 1:
        raise GraphError(f"a graph of {ops} ops was asked for: it needs at least 1")
    return random_graph(np.random.default_rng(seed), ops)


def drawn(family: str, seed: int = 0) -> OpGraph:
    """A graph of a family, of a size that the seed draws."""
    return FAMILIES[family](np.random.default_rng(seed))


MAKERS: dict[str, Callable[..., OpGraph]] = {
    **{name: functools.partial(drawn, name) for name in FAMILIES},
    "gnmt": gnmt,
    "dag": dag,
    **LARGE_MODELS,
}
"""Name -> maker; its parameters are the options."""


def generated_graph(spec: str) -> OpGraph:
    """The graph that ``generated:NAME?key=number`` names. Raises GraphError if there is none."""
    return make_generated(spec, MAKERS, GraphError)
