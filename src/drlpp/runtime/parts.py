"""Whole tensors from the parts that the members of groups hold: for comparisons and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from drlpp.errors import InputError
from drlpp.runtime.held_tensors import spread
from drlpp.runtime.programs import Ground
from drlpp.runtime.stage.division import local_shape
from drlpp.runtime.stage.moves import joined


def put_together(
    values: Mapping[str, torch.Tensor], ground: Ground, parameter_of: Callable[[str], str]
) -> dict[str, torch.Tensor]:
    """Values of this rank; those of parameters that groups cut are put together, each on one of the ranks with a part.

    Called on every rank.

    Args:
        values: by key.
        ground: see there.
        parameter_of: key -> the parameter whose shape the value has, if it is not a single number.

    Raises:
        InputError: on every rank: a value of a cut parameter has another shape than its part.
    """
    cuts = ground.holdings.cuts
    whole = {key: value for key, value in values.items() if parameter_of(key) not in cuts}
    mine = {key: v for key, v in values.items() if key not in whole and ground.answers(parameter_of(key))}
    told: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(told, {key: (v.shape, v.dtype) for key, v in mine.items()})
    specs = {key: spec for known in told for key, spec in known.items()}
    for i, key in enumerate(sorted(specs)):
        name, (shape, dtype) = parameter_of(key), specs[key]
        cut, devices = cuts[name], ground.holdings.answering(name)
        if not shape:
            whole.update({key: mine[key]} if ground.device == devices[0] else {})
            continue
        if shape != local_shape(ground.held.like(name).shape, cut, len(devices)):
            raise InputError(
                f"{key} has shape {list(shape)} for a part of parameter {name!r}: an optimizer that looks at whole "
                "matrices cannot train parts of them; take one that treats each element alike, such as AdamW, or plan "
                "without tensor parallelism"
            )
        to = ground.rank_of[devices[i % len(devices)]]
        like = torch.empty(shape, dtype=dtype, device="meta")
        found = [
            spread(
                mine[key] if device == ground.device else None, like, ground.rank_of[device], [to], ground.torch_device
            )
            for device in devices
        ]
        parts = [p for p in found if p is not None]
        if len(parts) == len(devices) and dist.get_rank() == to:
            whole[key] = joined(parts, cut)
    return whole
