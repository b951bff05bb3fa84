"""The programs of a pipeline: each is built when it is first asked for, and the last few are kept."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from drlpp.capture import CapturedModel
from drlpp.capture.variants import Evaluation, Shapes, for_evaluation, with_shapes
from drlpp.runtime.programs import EvaluationProgram, Ground, TrainingProgram
from drlpp.runtime.stage.precision import under_autocast

KEPT = 16
"""Programs of each kind that are kept; a program holds generated code and no parameters."""
_Form = tuple[tuple[str, tuple[int, ...]], ...]
_Key = TypeVar("_Key")
_T = TypeVar("_T")


class ProgramCache:
    """Builds programs. All ranks ask for the same ones in the same order.

    Args:
        ground: see there.
        model: the captured model.
        autocast: element type of mixed precision, which `model` has already and other forms of it get.
    """

    def __init__(self, ground: Ground, model: CapturedModel, autocast: torch.dtype | None) -> None:
        self._ground = ground
        self._model = model
        self._autocast = autocast
        self._example = {n: tuple(t.shape) for n, t in model.call.inputs.items()}
        self._forms: OrderedDict[_Form, CapturedModel] = OrderedDict()
        self._evaluated: OrderedDict[_Form, Evaluation] = OrderedDict()
        self._training: OrderedDict[tuple[tuple[_Form, ...], frozenset[str]], TrainingProgram] = OrderedDict()
        self._evaluations: OrderedDict[tuple[_Form, int], EvaluationProgram] = OrderedDict()

    def planned(self, trained: frozenset[str]) -> TrainingProgram:
        """The step that the plan describes, with the given parameters trained."""
        return self.training([{}] * self._ground.plan.num_microbatches, trained)

    def training(self, shapes: Sequence[Shapes], trained: frozenset[str]) -> TrainingProgram:
        """A step of micro-batches with the given shapes (those that are not given are the example's).

        Raises:
            InputError, PlanError, CaptureError: on every rank: there is no such step.
        """
        forms = tuple(self._form(s) for s in shapes)

        def build() -> TrainingProgram:
            models = [_kept(self._forms, form, functools.partial(self._captured, form)) for form in forms]
            return TrainingProgram(self._ground, models, trained)

        return _kept(self._training, (forms, trained), build)

    def evaluations(self, shapes: Sequence[Shapes]) -> list[tuple[int, EvaluationProgram]]:
        """The programs that evaluate micro-batches of the given shapes, each with the first micro-batch that it runs.

        Raises:
            InputError, CaptureError: on every rank: the model cannot be evaluated so.
        """
        runs: list[tuple[int, _Form, int]] = []
        for m, given in enumerate(shapes):
            form = tuple(sorted(given.items()))
            if runs and runs[-1][1] == form:
                runs[-1] = (runs[-1][0], form, runs[-1][2] + 1)
            else:
                runs.append((m, form, 1))
        return [(first, self._evaluation(form, count)) for first, form, count in runs]

    def _evaluation(self, form: _Form, count: int) -> EvaluationProgram:
        def build() -> EvaluationProgram:
            evaluation = _kept(self._evaluated, form, lambda: self._captured_for_evaluation(form))
            return EvaluationProgram(self._ground, evaluation, count)

        return _kept(self._evaluations, (form, count), build)

    def _form(self, shapes: Shapes) -> _Form:
        """The inputs that differ from the example."""
        return tuple(sorted((n, s) for n, s in shapes.items() if s != self._example[n]))

    def _captured(self, form: _Form) -> CapturedModel:
        if not form:
            return self._model
        captured = with_shapes(self._model, dict(form))
        return (
            captured if self._autocast is None else under_autocast(captured, self._autocast, self._ground.torch_device)
        )

    def _captured_for_evaluation(self, form: _Form) -> Evaluation:
        evaluation = for_evaluation(self._model, dict(form))
        if self._autocast is None:
            return evaluation
        captured = under_autocast(evaluation.captured, self._autocast, self._ground.torch_device)
        return dataclasses.replace(evaluation, captured=captured)


def _kept(cache: OrderedDict[_Key, _T], key: _Key, build: Callable[[], _T]) -> _T:
    """What is in the cache under a key; made and kept if it is not there. The oldest of too many is dropped."""
    if key not in cache:
        cache[key] = build()
        if len(cache) > KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
