"""Micro-batches: drawn from the example inputs, or cut from a batch of the user.

Inputs are known by name (`drlpp.capture.ModuleCall`). An input holds *samples* if its first dimension in the example is
the number of samples of a micro-batch; others (masks, offsets, scalars) belong to the micro-batch as a whole. The
number of samples is the most frequent first dimension.

A drawn micro-batch has the shapes and types of the example. What is drawn is legal wherever the example is:

- floats are normal with the example's mean and standard deviation, and stay between its smallest and largest value;
- integers are drawn sample by sample: each sample is one of the example's;
- what carries structure rather than data stays as it is: inputs that do not hold samples, booleans, tensors of one
  repeated value, integers that are sorted along their last dimension (offsets, positions), floats that are not all
  finite (masks).

What is drawn depends on (seed, step, micro-batch, input) only, so every rank draws what it needs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from drlpp.capture.module_call import Entry, ModuleCall
from drlpp.errors import InputError, did_you_mean
from drlpp.seeds import derived_seed
from drlpp.torch_private import tree_flatten

Microbatch = Mapping[str, torch.Tensor]
"""Input name -> tensor."""
Batch = Any
"""What a data loader gives: a tensor, a tuple or list of tensors, or a mapping; or a list of such micro-batches."""
Weights = Sequence[float] | Callable[[Microbatch], float]
"""Per micro-batch; or what tells the weight of a micro-batch from its tensors."""


def number_of_samples(example: Mapping[str, torch.Tensor]) -> int:
    """Samples of a micro-batch: the most frequent first dimension, of equally frequent ones the first."""
    counts = Counter(t.shape[0] for t in example.values() if t.dim())
    return counts.most_common(1)[0][0] if counts else 1


def draw(example: Mapping[str, torch.Tensor], seed: int, step: int, microbatch: int, samples: int = 0) -> Microbatch:
    """Draws one micro-batch (see the module's docstring).

    Args:
        example: the inputs.
        seed, step, microbatch: what is drawn depends on.
        samples: of the example, where `example` has only some of the inputs; 0: it has all.
    """
    count = samples or number_of_samples(example)
    return {name: _like(t, derived_seed(seed, "input", step, microbatch, name), count) for name, t in example.items()}


def _like(example: torch.Tensor, seed: int, samples: int) -> torch.Tensor:
    if not example.dim() or example.shape[0] != samples or _is_structure(example.detach()):
        return example.detach().clone()
    generator = torch.Generator().manual_seed(seed)
    values = example.detach().cpu()
    if values.is_floating_point():
        flat = values.double()
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        drawn = (noise * flat.std() + flat.mean()).clamp(flat.min(), flat.max())
    else:
        drawn = values[torch.randint(samples, (samples,), generator=generator)]
    return drawn.to(example.dtype).to(example.device)


def _is_structure(values: torch.Tensor) -> bool:
    flat = values.reshape(-1)
    if flat.numel() < 2 or flat.dtype == torch.bool or flat.is_complex() or bool((flat == flat[0]).all()):
        return True
    if flat.is_floating_point():
        return not bool(flat.isfinite().all())
    ascending = values.diff(dim=-1) >= 0 if values.shape[-1] > 1 else torch.zeros((), dtype=torch.bool)
    return bool(ascending.all())


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A batch as micro-batches.

    Attributes:
        parts: the micro-batches.
        samples: of each; None where no input that was given holds samples.
    """

    parts: tuple[Microbatch, ...]
    samples: tuple[int, ...] | None


class BatchLayout:
    """What the batches of a model look like.

    Args:
        call: how the module was called for the capture.
        num_microbatches: that the plan runs in a step.

    Attributes:
        example: all inputs of the example micro-batch, by name.
        samples: that it holds.
    """

    def __init__(self, call: ModuleCall, num_microbatches: int) -> None:
        self.example = call.inputs
        self.samples = number_of_samples(self.example)
        self._entries = call.entries
        self._num_microbatches = num_microbatches

    def holds_samples(self, name: str) -> bool:
        """Whether the first dimension of an input counts samples."""
        example = self.example[name]
        return example.dim() > 0 and example.shape[0] == self.samples

    def cut(self, batch: Batch) -> Cut:
        """Cuts a batch into micro-batches; a list of micro-batches is taken as it is.

        Raises:
            InputError: an input that is not known, has a wrong type, or does not go with the others; too many samples
                or micro-batches, or none.
        """
        planned = self._num_microbatches
        if self._is_list(batch):
            if not 1 <= len(batch) <= planned:
                raise InputError(f"{len(batch)} micro-batches were given: the plan runs 1 to {planned} per step")
            parts = [self.by_name(part, f"micro-batch {m}") for m, part in enumerate(batch)]
            counts = [self._count(part, f"micro-batch {m}") for m, part in enumerate(parts)]
            known = tuple(c for c in counts if c is not None)
            return Cut(tuple(parts), known if len(known) == len(parts) else None)
        whole = self.by_name(batch, "the batch")
        total = self._count(whole, "the batch")
        if total is None:
            total = planned * self.samples
        if not 1 <= total <= planned * self.samples:
            raise InputError(
                f"the batch has {total} samples: the plan runs 1 to {planned} micro-batches of {self.samples} "
                f"per step, at most {planned * self.samples}"
            )
        sizes = [self.samples] * (total // self.samples) + ([total % self.samples] if total % self.samples else [])
        pieces = {name: self._pieces(name, tensor, sizes) for name, tensor in whole.items()}
        return Cut(tuple({n: p[m] for n, p in pieces.items()} for m in range(len(sizes))), tuple(sizes))

    def by_name(self, batch: Batch, where: str) -> Microbatch:
        """The tensors of a batch (or micro-batch) by input name.

        Raises:
            InputError: it has an input that the model has not, or something else than tensors.
        """
        if isinstance(batch, torch.Tensor):
            batch = (batch,)
        if isinstance(batch, Mapping):
            return self._from_mapping(batch, where)
        if not isinstance(batch, (tuple, list)):
            raise InputError(
                f"{where} is a {type(batch).__name__}: give a dict of tensors by input name, a tuple of them in order, "
                "or a list of micro-batches"
            )
        if len(batch) > len(self._entries):
            raise InputError(f"{where} has {len(batch)} inputs: the model has {len(self._entries)}")
        out: dict[str, torch.Tensor] = {}
        for entry, value in zip(self._entries, batch, strict=False):
            out |= self._entry(entry, value, where)
        return out

    def _from_mapping(self, batch: Mapping[str, Any], where: str) -> dict[str, torch.Tensor]:
        by_key = {entry.key: entry for entry in self._entries if entry.key is not None}
        first = self._entries[0] if self._entries else None
        if first is not None and len(self._entries) == 1 and not set(batch) & (set(self.example) | set(by_key)):
            leaves, spec = tree_flatten(dict(batch))
            if spec == first.spec:  # the model takes one argument: a dict
                return self._named(first, leaves, where)
        out: dict[str, torch.Tensor] = {}
        for key, value in batch.items():
            if key in self.example and isinstance(value, torch.Tensor):
                out[key] = self._checked(key, value, where)
            elif key in by_key:
                out |= self._entry(by_key[key], value, where)
            else:
                raise InputError(
                    f"{where} has input {key!r}, which the model does not have: "
                    f"{did_you_mean(str(key), self.example)}it has {sorted(self.example)}"
                )
        return out

    def _entry(self, entry: Entry, value: Any, where: str) -> dict[str, torch.Tensor]:
        leaves, spec = tree_flatten(value)
        if spec != entry.spec:
            raise InputError(
                f"input {entry.key or entry.names[0]!r} of {where} is nested otherwise than in the example: give "
                "tensors in the form in which the model was captured"
            )
        return self._named(entry, leaves, where)

    def _named(self, entry: Entry, leaves: Sequence[Any], where: str) -> dict[str, torch.Tensor]:
        out = {}
        for name, leaf, example in zip(entry.names, leaves, entry.leaves, strict=True):
            if isinstance(example, torch.Tensor):
                out[name] = self._checked(name, leaf, where)
            elif leaf != example:
                raise InputError(f"input {name!r} of {where} is {leaf!r}: the model was captured with {example!r}")
        return out

    def _checked(self, name: str, value: Any, where: str) -> torch.Tensor:
        example = self.example[name]
        if not isinstance(value, torch.Tensor):
            raise InputError(f"input {name!r} of {where} is a {type(value).__name__}: it must be a tensor")
        if value.dtype != example.dtype or value.dim() != example.dim():
            raise InputError(
                f"input {name!r} of {where} is {value.dtype} {list(value.shape)}: the model was captured for "
                f"{example.dtype} {list(example.shape)}; the number of dimensions and the type must be the same"
            )
        return value

    def _is_list(self, batch: Batch) -> bool:
        """Whether a batch is a list of micro-batches; a tuple or list of tensors is one batch by position."""
        if not isinstance(batch, (tuple, list)):
            return False
        if batch and all(isinstance(part, torch.Tensor) for part in batch):
            return len(self._entries) == 1 and len(batch) > 1
        return all(isinstance(part, (Mapping, tuple, list)) for part in batch)

    def _count(self, part: Microbatch, where: str) -> int | None:
        """Samples of a batch; None if no input holds samples."""
        counts = {name: tensor.shape[0] for name, tensor in part.items() if self.holds_samples(name)}
        if not counts:
            return None
        first, count = next(iter(counts.items()))
        for name, other in counts.items():
            if other != count:
                raise InputError(
                    f"input {name!r} of {where} has {other} samples, input {first!r} has {count}: they must have "
                    "the same number (an input that belongs to every micro-batch as a whole is given in a list of "
                    "micro-batches)"
                )
        if count < 1:
            raise InputError(f"{where} has no samples: leave the step out")
        return count

    def _pieces(self, name: str, tensor: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
        example = self.example[name]
        if self.holds_samples(name):
            return list(tensor.split(list(sizes)))
        if tensor.shape == example.shape:
            return [tensor] * len(sizes)
        if tensor.shape == (example.shape[0] * len(sizes), *example.shape[1:]):
            return list(tensor.split(example.shape[0]))
        raise InputError(
            f"input {name!r} of the batch has shape {list(tensor.shape)}: it does not hold one entry per sample, so it "
            f"must have the shape {list(example.shape)} of the example, or hold {len(sizes)} of these; else give a "
            "list of micro-batches"
        )


def fractions(samples: Sequence[int], weights: Sequence[float] | None, count: float | None) -> tuple[float, ...]:
    """What the loss of each micro-batch is multiplied by before they are summed.

    Args:
        samples: per micro-batch.
        weights: per micro-batch; only their ratios matter. None: the samples.
        count: what the plain sum of the losses is divided by, in the place of weights.

    Raises:
        InputError: both are given, a number is not finite or negative, or there are too few, or all are zero.
    """
    if weights is not None and count is not None:
        raise InputError("weights and count were given: weights are for a mean of means, count for a sum of sums")
    if count is not None:
        if not 0 < count < float("inf"):
            raise InputError(f"count is {count}: it must be positive (leave a step out that has nothing to count)")
        return (1.0 / count,) * len(samples)
    chosen = [float(s) for s in samples] if weights is None else list(weights)
    if len(chosen) != len(samples):
        raise InputError(f"{len(chosen)} weights were given for {len(samples)} micro-batches: give one for each")
    if not all(0 <= w < float("inf") for w in chosen) or not sum(chosen) > 0:
        raise InputError(f"weights are {chosen[:8]}: they must be finite and not negative, and one must be positive")
    total = sum(chosen)
    return tuple(w / total for w in chosen)
