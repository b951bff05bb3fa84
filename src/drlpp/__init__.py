"""DRL-PP: plans for pipeline-parallel training, found by a learned agent.

The public names are loaded when they are first used, so that ``import drlpp`` costs nothing::

    import drlpp

    graph = drlpp.capture_graph("timm:inception_v3")
    problem = drlpp.PlanningProblem.build(graph, drlpp.load_cluster("mixed-a100-v100-t4"))
    result = drlpp.solve(problem, budget=30)
    drlpp.save_plan(result.plan, Path("plan.json"))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from drlpp._version import __version__ as __version__

if TYPE_CHECKING:
    from drlpp.capture import capture_graph as capture_graph
    from drlpp.cluster import Cluster as Cluster
    from drlpp.cluster import load_cluster as load_cluster
    from drlpp.graph import OpGraph as OpGraph
    from drlpp.graph.readers import read_graph as read_graph
    from drlpp.plan import Plan as Plan
    from drlpp.plan import load_plan as load_plan
    from drlpp.plan import save_plan as save_plan
    from drlpp.plan import validate as validate
    from drlpp.problem import PlanningProblem as PlanningProblem
    from drlpp.runtime import run as run
    from drlpp.sim import simulate as simulate
    from drlpp.solving import solve as solve

_HOME = {
    "Cluster": "drlpp.cluster",
    "OpGraph": "drlpp.graph",
    "Plan": "drlpp.plan",
    "PlanningProblem": "drlpp.problem",
    "capture_graph": "drlpp.capture",
    "load_cluster": "drlpp.cluster",
    "load_plan": "drlpp.plan",
    "read_graph": "drlpp.graph.readers",
    "run": "drlpp.runtime",
    "save_plan": "drlpp.plan",
    "simulate": "drlpp.sim",
    "solve": "drlpp.solving",
    "validate": "drlpp.plan",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'drlpp' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
