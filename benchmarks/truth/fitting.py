"""Fits rates of devices to measurements: a sample of works and seconds in, a row of `device_rates.csv` out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from drlpp.cluster import DeviceType
from drlpp.cost.device_rates import OpClass, Rates
from drlpp.cost.op_times import kernel_seconds
from drlpp.graph import Work

FREE = ("compute", "memory", "launch_s", "blend", "fill_outputs", "depth")
"""What a fit may change. Each is fitted as a logarithm, with a weak pull towards where it starts."""
PRODUCT = (*FREE, "sag")
"""The same with clocks that fall under load."""
CACHED = (*PRODUCT, "cache_bytes", "cache_gain")
"""The same with a cache that serves operands of products."""
_BOUNDS = {
    "compute": (0.02, 2.5),
    "memory": (0.05, 1.0),
    "launch_s": (2e-7, 1e-4),
    "blend": (1.0, 8.0),
    "fill_outputs": (1e2, 1e6),
    "depth": (0.5, 600.0),
    "cache_bytes": (1e6, 2e8),
    "cache_gain": (0.01, 0.95),
    "sag": (0.01, 3.0),
}
_PULL = 0.01
"""Weight of the pull: a factor of e weighs as much as an error of 1 % in all rows of a set."""
_HELD = 0.2
"""The same for figures that a sample of layers can hardly tell from others."""
_HOST_S, _HOSTS = 2.5e-5, (1e-6, 4e-4)
"""Seconds of the host per operator: where the fit starts, and its limits."""


@dataclasses.dataclass
class Sample:
    """Works of one class each, and the observations that they are parts of.

    Attributes:
        classes: class of each work.
        works: the works.
        observation: index of the observation that each work is part of.
        seconds: of the observations.
        sets: name of the set of each observation; all sets weigh the same.
        eager: sets of single eager operators, each of which waited for its host.
    """

    classes: list[OpClass] = dataclasses.field(default_factory=list)
    works: list[Work] = dataclasses.field(default_factory=list)
    observation: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    sets: list[str] = dataclasses.field(default_factory=list)
    eager: set[str] = dataclasses.field(default_factory=set)

    def add(self, name: str, parts: Sequence[tuple[OpClass, Work]], seconds: float) -> None:
        """Adds an observation of a set: works of which none overlaps with another."""
        for kind, work in parts:
            self.classes.append(kind)
            self.works.append(work)
            self.observation.append(len(self.seconds))
        self.seconds.append(seconds)
        self.sets.append(name)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes:
        rates: by class.
        host_s: host's seconds per operator by eager set.
        error: mean relative error by class and set.
        rows: observations by class and set.
    """

    rates: dict[OpClass, Rates]
    host_s: dict[str, float]
    error: dict[tuple[OpClass, str], float]
    rows: dict[tuple[OpClass, str], int]


class _Fitter:
    """The residuals of a sample as a function of logarithms."""

    def __init__(
        self,
        sample: Sample,
        device: DeviceType,
        peaks: Mapping[OpClass, float],
        start: Mapping[OpClass, Rates],
        free: Mapping[OpClass, Sequence[str]],
        held: Collection[OpClass],
    ) -> None:
        self.bandwidth, self.peaks, self.start = device.memory_bandwidth, peaks, start
        self.names = [(kind, name) for kind, fields in free.items() for name in fields]
        self.eager = sorted(sample.eager & set(sample.sets))
        self.measured, self.observation = np.array(sample.seconds), np.array(sample.observation)
        amounts, classes = np.array([w.amounts for w in sample.works]), np.array(sample.classes)
        self.parts = {k: (classes == k, amounts[classes == k]) for k in dict.fromkeys(sample.classes)}
        self.host_of = np.array([self.eager.index(s) if s in self.eager else -1 for s in sample.sets])
        counts = {s: sample.sets.count(s) for s in set(sample.sets)}
        self.weight = np.array([1 / counts[s] for s in sample.sets]) ** 0.5
        bounds = [_BOUNDS[name] for _, name in self.names] + [_HOSTS] * len(self.eager)
        self.bounds = np.log(np.array(bounds)).T
        first = [getattr(start[kind], name) for kind, name in self.names] + [_HOST_S] * len(self.eager)
        firm = [kind in held and name == "memory" for kind, name in self.names] + [False] * len(self.eager)
        self.pull = np.where(firm, _HELD, _PULL)
        self.first = np.clip(np.log(np.maximum(first, 1e-12)), self.bounds[0] + 1e-6, self.bounds[1] - 1e-6)

    def rates(self, x: NDArray[np.float64]) -> dict[OpClass, Rates]:
        out = dict(self.start)
        for (kind, name), value in zip(self.names, np.exp(x).tolist(), strict=False):
            out[kind] = dataclasses.replace(out[kind], **{name: value})
        return out

    def hosts(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(x[len(self.names) :])

    def seconds(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        rates, of_work = self.rates(x), np.zeros(len(self.observation))
        for kind, (chosen, amounts) in self.parts.items():
            of_work[chosen] = kernel_seconds(amounts, self.bandwidth, rates[kind], self.peaks[kind])
        seconds = np.bincount(self.observation, of_work, len(self.measured))
        hosts = np.append(self.hosts(x), 0.0)  # the last is that of sets without a host
        return seconds + hosts[self.host_of]

    def residuals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        pulled = self.pull * (x - self.first)
        return np.concatenate([self.weight * _soft(np.log(self.seconds(x) / self.measured)), pulled])


def _soft(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residuals that grow as a square root from 0.1 on, so that a few odd rows do not decide."""
    scaled = (r / 0.1) ** 2
    return np.sign(r) * 0.1 * np.sqrt(2 * (np.sqrt(1 + scaled) - 1))


def fit(
    sample: Sample,
    device: DeviceType,
    peaks: Mapping[OpClass, float],
    start: Mapping[OpClass, Rates],
    free: Mapping[OpClass, Sequence[str]],
    held: Collection[OpClass] = (),
) -> Fit:
    """The rates that explain a sample best.

    Args:
        start: rates of all classes of the sample.
        free: names of the figures to fit, by class.
        held: classes whose part of the memory bandwidth stays near where it starts, unless much speaks against it.
    """
    fitter = _Fitter(sample, device, peaks, start, free, held)
    x = least_squares(fitter.residuals, fitter.first, bounds=fitter.bounds, x_scale=0.3).x
    errors = np.abs(fitter.seconds(x) / fitter.measured - 1)
    names, error, rows = np.array(sample.sets), {}, {}
    for kind, (chosen, _) in fitter.parts.items():
        having = np.zeros(len(errors), dtype=bool)
        having[fitter.observation[chosen]] = True
        for name in dict.fromkeys(sample.sets):
            members = having & (names == name)
            if members.any():
                error[kind, name], rows[kind, name] = float(errors[members].mean()), int(members.sum())
    host_s = dict(zip(fitter.eager, fitter.hosts(x).tolist(), strict=True))
    return Fit(fitter.rates(x), host_s, error, rows)
