"""Weights on disk: safetensors with the policy's shape and a record of their making, also to resume from."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drlpp._version import __version__
from drlpp.agent.networks.policy import Policy, PolicyConfig
from drlpp.errors import InputError
from drlpp.files import write_atomically

SHIPPED = "policy.safetensors"
"""Name of the pre-trained weights in the package's folder ``agent/weights``."""
_OPTIMIZER = "optimizer."


def save_checkpoint(
    path: Path, policy: Policy, record: Mapping[str, Any], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Writes weights, atomically.

    Args:
        record: anything that JSON can hold; `load_checkpoint` returns it.
        optimizer: its state is written too, to resume training.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {name: value.detach().contiguous() for name, value in policy.state_dict().items()}
    if optimizer is not None:
        for i, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"{_OPTIMIZER}{i}.{key}"] = value.detach().clone().contiguous()
    metadata = {"config": json.dumps(dataclasses.asdict(policy.config)), "record": json.dumps(record)}
    write_atomically(path, save(tensors, metadata))


def load_checkpoint(path: Path) -> tuple[Policy, dict[str, Any], dict[int, dict[str, Tensor]]]:
    """Reads weights.

    Returns:
        The policy, the record, and the optimizer's state by parameter (empty if none was saved).

    Raises:
        InputError: the file is missing, damaged, not one of these, or of another version's networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        policy = Policy(PolicyConfig(**json.loads(metadata["config"])))
        record = json.loads(metadata["record"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read weights {path}: {reason}: give a file that drlpp wrote") from error
    try:
        policy.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_OPTIMIZER)})
    except RuntimeError as error:
        raise InputError(
            f"cannot use weights {path}: they are of networks of another shape than those of this version of drlpp "
            f"({__version__}): train again with `drlpp train-policy`, or install the version that wrote them"
        ) from error
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            i, key = name.removeprefix(_OPTIMIZER).split(".", 1)
            states.setdefault(int(i), {})[key] = value
    return policy, record, states


def restore_optimizer(optimizer: torch.optim.Optimizer, states: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Puts a saved state into an optimizer over the same policy."""
    whole = optimizer.state_dict()
    whole["state"] = {i: dict(state) for i, state in states.items()}
    optimizer.load_state_dict(whole)


@functools.cache
def _shipped() -> Policy | None:
    file = resources.files("drlpp.agent").joinpath("weights", SHIPPED)
    if not file.is_file():
        return None
    with resources.as_file(file) as path:
        return load_checkpoint(path)[0]


def initial_policy(seed: int) -> Policy:
    """A fresh copy of the shipped weights, or random weights by seed where the package has none."""
    shipped = _shipped()
    if shipped is None:
        return untrained_policy(seed)
    policy = Policy(shipped.config)
    policy.load_state_dict(shipped.state_dict())
    return policy


def untrained_policy(seed: int) -> Policy:
    """Random weights by seed, of networks of the shape of the shipped ones."""
    shipped = _shipped()
    return random_policy(PolicyConfig() if shipped is None else shipped.config, seed)


def random_policy(config: PolicyConfig, seed: int) -> Policy:
    """Random weights by seed, without touching torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(config)
