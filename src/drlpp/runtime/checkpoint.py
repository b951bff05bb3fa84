"""Checkpoints of a pipeline: saved under one plan, resumed under any other of the same model.

Written by torch.distributed.checkpoint under the model's own names, each tensor once, wherever it was held. A
checkpoint is a folder ``step-N``; it appears under that name when it is complete, and the last two are kept. It holds
parameters, buffers, the state of the optimizer (its hyperparameters are those of rank 0), that of a learning-rate
scheduler, and the number of steps done (which dropout and drawn micro-batches depend on). Left out: the position in the
data.

torch.distributed.checkpoint takes a second to import, so that is done when a checkpoint is saved or loaded.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist

from drlpp.errors import InputError
from drlpp.files import is_file
from drlpp.runtime.pipeline import Pipeline

KEPT = 2
_SETTINGS = "settings"
_NAME = re.compile(r"step-(\d+)$")


def save_checkpoint(
    folder: Path,
    pipeline: Pipeline,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Path:
    """Saves a checkpoint in `folder`, which all ranks share; called on every rank. Returns its path."""
    from torch.distributed.checkpoint.state_dict_saver import save

    path = folder / f"step-{pipeline.steps_done}"
    partial = folder / f"partial-{pipeline.steps_done}"
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("partial-*"):
            shutil.rmtree(left)
    dist.barrier()
    model = {f"model/{name}": tensor for name, tensor in pipeline.whole(pipeline.tensors()).items()}
    states = pipeline.whole(_optimizer_content(pipeline, optimizer), lambda key: key.split("/")[1])
    content = model | _steps(pipeline) | states | _settings(optimizer, scheduler)
    save(content, checkpoint_id=partial)
    if dist.get_rank() == 0:
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        for _, old in checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    dist.barrier()
    return path


def load_checkpoint(
    path: Path,
    pipeline: Pipeline,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    """Restores what this rank holds; called on every rank, on any plan of the model.

    Raises:
        InputError: `path` is no checkpoint, or one of another model or with other groups of parameters, or it has no
            scheduler.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    own = {f"model/{name}": tensor for name, tensor in pipeline.tensors().items()}
    model = {key: _room(pipeline, key, tensor) for key, tensor in own.items()} | _steps(pipeline)
    problems = [""] * dist.get_world_size()
    dist.all_gather_object(problems, _problem(path, model))  # all ranks raise, or none does
    if problem := next(filter(None, problems), ""):
        raise InputError(problem)
    content = dict(model)
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    entry = stored[_SETTINGS]
    if isinstance(entry, TensorStorageMetadata):
        content[_SETTINGS] = torch.empty(entry.size, dtype=torch.uint8)
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in pipeline.named_parameters():
        prefix = f"optimizer/{name}/"
        for key, entry in stored.items():
            if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata):
                device = parameter.device if entry.size == parameter.shape and parameter.dim() else torch.device("cpu")
                content[key] = torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
                states.setdefault(name, {})[key.removeprefix(prefix)] = content[key]
    load(content, checkpoint_id=path)
    settings = torch.load(io.BytesIO(content[_SETTINGS].numpy().tobytes()), weights_only=True)
    if len(settings["groups"]) != len(optimizer.param_groups):
        raise InputError(
            f"{path} has {len(settings['groups'])} groups of parameters, the optimizer has "
            f"{len(optimizer.param_groups)}: give it the same groups on every rank"
        )
    if scheduler is not None and settings["scheduler"] is None:
        raise InputError(f"{path} has no learning-rate scheduler: give it one when saving, or none when loading")
    for key, tensor in own.items():
        if content[key] is not tensor:
            tensor.copy_(pipeline.part(key.partition("/")[2], content[key]))
    pipeline.steps_done = int(content["step"].item())
    for name, parameter in pipeline.named_parameters():
        if name in states:
            optimizer.state[parameter] = {
                key: value if value.shape == parameter.shape or not value.dim() else _own_part(pipeline, name, value)
                for key, value in states[name].items()
            }
    for group, saved in zip(optimizer.param_groups, settings["groups"], strict=True):
        group.update(saved)
    if scheduler is not None:
        scheduler.load_state_dict(settings["scheduler"])


def _problem(path: Path, content: Mapping[str, torch.Tensor]) -> str:
    """Why `content` cannot be loaded from a checkpoint; empty if it can."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    if not is_file(path / ".metadata"):
        return f"{path} is not a checkpoint: give a folder step-N that save_checkpoint wrote"
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    for name, tensor in content.items():
        entry = stored.get(name)
        if not isinstance(entry, TensorStorageMetadata) or entry.size != tensor.shape:
            return f"{path} has no {name} of shape {list(tensor.shape)}: it is of another model"
    return ""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints of a folder with the steps that were done, oldest first."""
    return sorted((int(match.group(1)), path) for path in folder.glob("step-*") if (match := _NAME.match(path.name)))


def _steps(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return {"step": torch.tensor(pipeline.steps_done)}


def _room(pipeline: Pipeline, key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Where a tensor of the model is loaded: in place, or beside it where this rank holds a part."""
    shape = pipeline.shape(key.partition("/")[2])
    return tensor if tensor.shape == shape else torch.empty(shape, dtype=tensor.dtype)


def _own_part(pipeline: Pipeline, name: str, value: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a state of the optimizer."""
    own = pipeline.tensors()[name]
    return pipeline.part(name, value).to(own.device) if value.shape == pipeline.shape(name) else value


def _optimizer_content(pipeline: Pipeline, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"optimizer/{name}/{key}": value
        for name, parameter in pipeline.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def _settings(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler | None
) -> dict[str, torch.Tensor]:
    """Hyperparameters per group of parameters, and the state of the scheduler, in bytes: what is equal on all ranks."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    data = io.BytesIO()
    torch.save({"groups": groups, "scheduler": None if scheduler is None else scheduler.state_dict()}, data)
    return {_SETTINGS: torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)}
