"""What other training and serving engines can express of a plan, as rules that a search can keep.

All of them run a chain of stages, each on equally many replicas of equally many devices; they differ in where a model
may be cut. The search takes one stage per pipeline rank for all of them, unless more stages are asked for. What an
exporter accepts (`drlpp.export`) is the test of these rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from drlpp.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Rules of an engine.

    Attributes:
        name: on the command line.
        title: for people.
        cuts: ``layers``: between entries of the model's list of layers, or modules beside it; ``top-level``: between
            top-level modules, or entries of top-level lists; ``modules``: wherever a module begins; ``ops``: anywhere.
        fixed_ends: what is before the list of layers stays with the first stage, what is after it with the last.
        layer_in_every_stage: no stage may hold only modules beside the list.
        ties: stages may share parameters.
        replicates: stages may have replicas.
        one_host: all devices are on one host.
        objective: what is planned for it by default.
        moves_tensors_everywhere: not only where a module is called.
        loops: ranks may have several stages, stage i on rank i modulo their number.
        schedules: the orders of actions that it knows; empty if it takes any.
        looped_schedules: those for several stages on a rank, if it knows `schedules` only.
        main_parameters: it keeps float32 main parameters and gradients beside parameters of low precision.
        parallelism: what plans for it may use (`SearchSpace`).
    """

    name: str
    title: str
    cuts: Literal["layers", "top-level", "modules", "ops"]
    fixed_ends: bool = False
    layer_in_every_stage: bool = False
    ties: bool = False
    replicates: bool = True
    one_host: bool = False
    objective: Literal["iteration-time", "serving"] = "iteration-time"
    moves_tensors_everywhere: bool = True
    loops: bool = False
    schedules: tuple[str, ...] = ()
    looped_schedules: tuple[str, ...] = ()
    main_parameters: bool = False
    parallelism: tuple[str, ...] = ("pp", "dp")


_VLLM = Engine(
    name="vllm",
    title="vLLM",
    cuts="layers",
    fixed_ends=True,
    layer_in_every_stage=True,
    ties=True,
    objective="serving",
    parallelism=("pp", "dp", "tp"),
)
_ENGINES = (
    Engine(name="torch", title="torch.distributed.pipelining", cuts="modules", loops=True),
    Engine(name="torchtitan", title="torchtitan", cuts="top-level", loops=True, parallelism=("pp", "dp", "tp", "sp")),
    Engine(
        name="megatron",
        title="Megatron-LM",
        cuts="layers",
        fixed_ends=True,
        ties=True,
        loops=True,
        schedules=("1f1b",),
        looped_schedules=("interleaved-1f1b",),
        main_parameters=True,
        parallelism=("pp", "dp", "tp", "sp", "zero1"),
    ),
    Engine(
        name="deepspeed",
        title="DeepSpeed",
        cuts="layers",
        ties=True,
        schedules=("1f1b",),
        main_parameters=True,
        parallelism=("pp", "dp", "zero1"),
    ),
    _VLLM,
    dataclasses.replace(_VLLM, name="sglang", title="SGLang"),
    Engine(
        name="accelerate",
        title="Hugging Face accelerate",
        cuts="modules",
        ties=True,
        replicates=False,
        one_host=True,
        moves_tensors_everywhere=False,
    ),
)

RUN = Engine(
    name="run", title="drlpp run", cuts="ops", ties=True, loops=True, parallelism=("pp", "dp", "tp", "sp", "zero1")
)
"""Our own runtime, for searches that are held to something else, such as a number of stages."""

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in _ENGINES}
"""Name -> engine."""


def get_engine(name: str) -> Engine:
    """The engine of a name. Raises InputError with the nearest known name."""
    if name not in ENGINES:
        raise InputError(f"engine {name!r} is not known: {did_you_mean(name, ENGINES)}use one of {', '.join(ENGINES)}")
    return ENGINES[name]
