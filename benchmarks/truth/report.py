"""Scores of a set of pairs, and how they are printed."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from truth.rows import Findings, Pair


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """How well a set is predicted.

    Attributes:
        rows: pairs.
        mean_error, median_error: of the absolute relative errors.
        ratio: median of predicted over measured.
        kendall: mean of Kendall's tau inside the groups of at least two plans, weighted by plans; None without groups.
        spearman: over all pairs.
        regret: mean over groups of (measured time of the plan with the best prediction / best measured - 1).
        groups: number of groups.
    """

    set: str
    what: str
    rows: int
    mean_error: float
    median_error: float
    ratio: float
    kendall: float | None
    spearman: float | None
    regret: float | None
    groups: int


def scores(pairs: Sequence[Pair]) -> list[Score]:
    """A score per set and quantity."""
    sets: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        sets[pair.set, pair.what].append(pair)
    return [score(name, what, members) for (name, what), members in sorted(sets.items())]


def score(name: str, what: str, pairs: Sequence[Pair]) -> Score:
    """The score of the pairs of one set."""
    predicted, measured = (np.array([getattr(p, k) for p in pairs]) for k in ("predicted", "measured"))
    if what == "out of memory":
        wrong = float(np.mean(predicted != measured))
        return Score(name, what, len(pairs), wrong, wrong, 1.0, None, None, None, 0)
    errors = np.abs(predicted / measured - 1)
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.group:
            groups[pair.group].append(pair)
    taus, regrets, sizes = [], [], []
    for members in groups.values():
        p, m = _plans(members)
        if len(p) < 2 or np.ptp(m) == 0:
            continue
        tau = kendalltau(p, m).statistic
        taus.append(0.0 if np.isnan(tau) else float(tau))
        regrets.append(float(m[np.argmin(p)] / m.min() - 1))
        sizes.append(len(p))
    rank = (
        float(spearmanr(predicted, measured).statistic)
        if len(pairs) > 2 and np.ptp(predicted) and np.ptp(measured)
        else None
    )
    return Score(
        set=name,
        what=what,
        rows=len(pairs),
        mean_error=float(errors.mean()),
        median_error=float(np.median(errors)),
        ratio=float(np.median(predicted / measured)),
        kendall=float(np.average(taus, weights=sizes)) if taus else None,
        spearman=rank,
        regret=float(np.mean(regrets)) if regrets else None,
        groups=len(taus),
    )


def _plans(members: Sequence[Pair]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions and mean measurements of the different plans of a job; the same plan has the same prediction."""
    by_plan: dict[float, list[float]] = defaultdict(list)
    for x in members:
        by_plan[round(x.predicted, 12)].append(x.measured)
    return np.array(list(by_plan)), np.array([np.mean(m) for m in by_plan.values()])


HEADER = ["set", "what", "rows", "mean error", "median", "ratio", "Kendall", "Spearman", "regret"]


def table_rows(found: Sequence[Score]) -> list[list[str]]:
    """Cells of the table, one row per score."""

    def part(x: float | None) -> str:
        return "" if x is None else f"{x:.1%}"

    def tau(x: float | None) -> str:
        return "" if x is None else f"{x:.2f}"

    return [
        [
            s.set, s.what, str(s.rows), part(s.mean_error), part(s.median_error), f"{s.ratio:.2f}", tau(s.kendall),
            tau(s.spearman), part(s.regret),
        ]
        for s in found
    ]  # fmt: skip


def as_json(findings: Findings) -> dict[str, Any]:
    """Scores, pairs, and what was left out."""
    return {
        "scores": [dataclasses.asdict(s) for s in scores(findings.pairs)],
        "left_out": [{"set": s, "reason": r, "rows": n} for (s, r), n in sorted(findings.left_out.items())],
        "pairs": [dataclasses.asdict(p) for p in findings.pairs],
    }
