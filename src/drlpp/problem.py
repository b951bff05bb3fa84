"""The planning problem: an operator graph, a cluster, a training set-up, an objective and what may be searched.

It is pure data; its prices are in `drlpp.cost`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, cast

from drlpp.cluster import Cluster
from drlpp.errors import InputError
from drlpp.graph import OpGraph
from drlpp.graph.mixed_precision import at_precision
from drlpp.graph.serving import ServingLoad, captured_load, serving_graph
from drlpp.plan import Objective
from drlpp.training import NO_OPTIMIZER, PRODUCT_DTYPE, Precision, TrainingSetup, precision_of

T = TypeVar("T")
PARALLELISM = ("pp", "dp", "tp", "sp", "zero1")
"""What a plan may use; see `SearchSpace`."""
USUAL_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def default_num_microbatches(num_devices: int) -> int:
    """Micro-batches per step when the user names none: two per device, at least eight."""
    return max(8, 2 * num_devices)


def usual_sizes(global_batch: int) -> tuple[int, ...]:
    """Micro-batch sizes to choose from when the user names none: powers of two that divide the samples of a step."""
    return tuple(size for size in USUAL_SIZES if global_batch % size == 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What a planner may choose besides partition, placement and schedule.

    Attributes:
        parallelism: ``pp``: stages; ``dp``: replicas of stages; ``tp``: groups of devices that divide ops; ``sp``: they
            divide what is kept between divided ops, too; ``zero1``: replicas divide optimizer states.
        one_degree: all groups that divide ops have one size, as other engines want it.
        tensor: size of all groups, as far as hosts have so many devices of a type; 0: any, and devices alone.
        micro_batch_sizes: samples per micro-batch to choose from, ascending; empty: those of the graph.
        shares: replicas of a stage may run unequal numbers of micro-batches, as `drlpp run` lets them.

    Raises:
        InputError: a name is not known, or needs another one.
    """

    parallelism: frozenset[str] = frozenset({"pp", "dp"})
    one_degree: bool = False
    tensor: int = 0
    micro_batch_sizes: tuple[int, ...] = ()
    shares: bool = True

    def __post_init__(self) -> None:
        if unknown := sorted(self.parallelism - set(PARALLELISM)):
            raise InputError(f"parallelism {unknown[0]!r} is not known: use some of {', '.join(PARALLELISM)}")
        for name, needed in (("dp", "pp"), ("tp", "pp"), ("sp", "tp"), ("zero1", "dp")):
            if name in self.parallelism and needed not in self.parallelism:
                raise InputError(f"parallelism {name!r} is given without {needed!r}, which it needs: give {needed} too")
        if self.tensor < 0 or (self.tensor and "tp" not in self.parallelism):
            raise InputError(f"groups of {self.tensor} devices: give a number above 0, and tp in the parallelism")
        if "pp" not in self.parallelism:
            raise InputError("parallelism is empty: give pp at least, since every plan has stages")


def parallelism_names(text: str) -> frozenset[str]:
    """``pp,dp`` -> the names of `SearchSpace`.parallelism."""
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def per_problem(make: Callable[[PlanningProblem], T]) -> Callable[[PlanningProblem], T]:
    """Makes a function of a problem remember what it gave, for as long as the problem lives."""

    @functools.wraps(make)
    def remembered(problem: PlanningProblem) -> T:
        if remembered not in problem.derived:
            problem.derived[remembered] = make(problem)
        return cast(T, problem.derived[remembered])

    return remembered


@dataclasses.dataclass(frozen=True)
class PlanningProblem:
    """What a planner is asked.

    Attributes:
        graph: the model, for one micro-batch.
        cluster: the devices and links.
        training: micro-batches per step and optimizer.
        objective: what planners minimise.
        space: what planners may use.
        derived: what `per_problem` functions remember of this problem.

    Raises:
        InputError: the objective is not known, or a micro-batch size does not divide the samples of a step.
    """

    graph: OpGraph
    cluster: Cluster
    training: TrainingSetup
    objective: Objective = Objective.ITERATION_TIME
    space: SearchSpace = SearchSpace()
    derived: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", Objective(self.objective))
        sizes = self.space.micro_batch_sizes
        if sizes and self.objective.of_one_microbatch:
            raise InputError(
                f"micro-batch sizes are {', '.join(map(str, sizes))}: objective {self.objective.value!r} judges one "
                "micro-batch, so give one size"
            )
        for size in sizes:
            _check_divides(size, self.global_batch)

    @classmethod
    def build(
        cls,
        graph: OpGraph,
        cluster: Cluster,
        *,
        num_microbatches: int | None = None,
        global_batch: int | None = None,
        micro_batch_sizes: Sequence[int] = (),
        optimizer: str = "momentum",
        precision: Precision | None = None,
        main_parameters: bool = False,
        objective: Objective | str = Objective.ITERATION_TIME,
        serving: ServingLoad | None = None,
    ) -> PlanningProblem:
        """A problem with defaults filled in.

        Args:
            num_microbatches: per step; None for `default_num_microbatches`, or what `global_batch` leads to.
            global_batch: samples per step; None for micro-batch size times number.
            micro_batch_sizes: samples per micro-batch to choose from; empty for those of the graph, or for
                `usual_sizes` where only `global_batch` is given and the graph can be had at other sizes.
            precision: of products; None for that of the graph.
            main_parameters: see `TrainingSetup`.
            serving: what is served at a time; None for the sequences of the graph, where the objective is serving.

        Raises:
            InputError: the numbers do not go together, or a size is below 1.
        """
        if Objective(objective) is Objective.SERVING:
            own = precision_of(graph.compute_dtype)
            if precision not in (None, own):
                raise InputError(
                    f"precision {precision} for serving: the model is in {own}, and its weights are served as they "
                    "are: give the model in that type"
                )
            served = serving_graph(graph, serving or captured_load(graph))
            training = TrainingSetup(num_microbatches=1, optimizer=NO_OPTIMIZER, precision=own)
            return cls(served, cluster, training, Objective.SERVING)
        if serving is not None:
            raise InputError(f"a load of sequences is for objective serving, not for {objective}: leave it out")
        default = default_num_microbatches(cluster.num_devices) if num_microbatches is None else num_microbatches
        sizes = tuple(sorted(set(micro_batch_sizes))) or (graph.samples_per_microbatch,)
        if sizes[0] < 1:
            raise InputError(f"micro-batch size is {sizes[0]}: it must be at least 1")
        if global_batch is None:
            if len(sizes) > 1:
                text = ", ".join(map(str, sizes))
                raise InputError(f"micro-batch sizes are {text}: to choose among them, give the global batch too")
            global_batch = sizes[0] * default
        elif global_batch < 1:
            raise InputError(f"global batch is {global_batch}: it must be at least 1")
        elif num_microbatches is not None:
            sizes = _the_size(global_batch, num_microbatches, micro_batch_sizes)
        elif not micro_batch_sizes and graph.batch_axis != "none" and not Objective(objective).of_one_microbatch:
            sizes = usual_sizes(global_batch)
        _check_divides(sizes[0], global_batch)
        training = TrainingSetup(
            num_microbatches=global_batch // sizes[0],
            optimizer=optimizer,
            precision=precision or precision_of(graph.compute_dtype),
            main_parameters=main_parameters,
        )
        space = SearchSpace(micro_batch_sizes=sizes if len(sizes) > 1 else ())
        dtype = PRODUCT_DTYPE[training.precision]
        at_size = at_precision(graph.with_samples(sizes[0]), dtype, main_parameters=main_parameters)
        return cls(at_size, cluster, training, Objective(objective), space)

    @property
    def global_batch(self) -> int:
        """Samples per step."""
        return self.graph.samples_per_microbatch * self.training.num_microbatches

    @property
    def variants(self) -> tuple[PlanningProblem, ...]:
        """The problem at every micro-batch size that is left open; itself if none is."""
        sizes = self.space.micro_batch_sizes
        return tuple(map(self.with_micro_batch_size, sizes)) if sizes else (self,)

    def with_parallelism(
        self, parallelism: Collection[str], *, one_degree: bool = False, shares: bool = True
    ) -> PlanningProblem:
        """The problem where plans may use these; see `SearchSpace`. Raises as that does."""
        space = dataclasses.replace(
            self.space,
            parallelism=frozenset(parallelism),
            one_degree=one_degree,
            tensor=self.space.tensor if "tp" in parallelism else 0,
            shares=shares,
        )
        zero1 = "zero1" in space.parallelism and self.training.trains
        return dataclasses.replace(self, space=space, training=dataclasses.replace(self.training, zero1=zero1))

    def with_micro_batch_size(self, samples: int) -> PlanningProblem:
        """The same step in micro-batches of another size.

        Raises:
            InputError: the size does not divide the samples of a step.
        """
        _check_divides(samples, self.global_batch)
        return dataclasses.replace(
            self,
            graph=self.graph.with_samples(samples),
            training=dataclasses.replace(self.training, num_microbatches=self.global_batch // samples),
            space=dataclasses.replace(self.space, micro_batch_sizes=()),
        )

    @property
    def may_replicate(self) -> bool:
        """Stages may run on several devices: dp in `SearchSpace`, but never where edges carry transfer times or
        an op needs its micro-batches in order on one device.

        Files with transfer times (dnn-partitioning) say nothing of parameters, so the gradient exchange would look
        free, and their objective gives each op one device.
        """
        return "dp" in self.space.parallelism and not self.graph.has_transfer_times and not self.graph.has_order

    @functools.cached_property
    def may_share(self) -> bool:
        """Replicas of a stage may run unequal numbers of micro-batches: shares in `SearchSpace`, and unequal devices.

        Serving engines share equally.
        """
        return self.cluster.is_unequal and self.space.shares and self.may_replicate and self.training.trains


def _check_divides(size: int, global_batch: int) -> None:
    if size < 1 or global_batch % size:
        raise InputError(
            f"micro-batch size {size} does not divide the global batch of {global_batch} samples: use one that does"
        )


def _the_size(global_batch: int, num_microbatches: int, wanted: Sequence[int]) -> tuple[int, ...]:
    """The one micro-batch size that a global batch and a number of micro-batches lead to. Raises InputError."""
    size, rest = divmod(global_batch, num_microbatches)
    if rest or not size:
        raise InputError(
            f"a global batch of {global_batch} samples does not divide into {num_microbatches} micro-batches: change "
            "one of them"
        )
    if wanted and set(wanted) != {size}:
        raise InputError(
            f"{num_microbatches} micro-batches of {global_batch} samples have {size} samples each, and not "
            f"{', '.join(map(str, wanted))}: give two of the three"
        )
    return (size,)
