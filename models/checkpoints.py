"""Weights and optimizer state as safetensors: nothing that is loaded can execute code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_weights(net: nn.Module, path: Path) -> None:
    """Writes a network's parameters and persistent buffers."""
    save_file({name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}, path)


def load_weights(net: nn.Module, path: Path) -> None:
    """Reads them back.

    Raises:
        ValueError: when the file is missing or damaged, or does not fit the network.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no weights here; run `python -m jobs.train` first")
    try:
        net.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path}: the weights do not fit this configuration: {error}") from error


def save_optimizers(optimizers: Sequence[torch.optim.Optimizer], path: Path) -> None:
    """Writes what optimizers remember of each parameter."""
    tensors: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"{number}/{parameter}/{name}"] = torch.as_tensor(value).cpu().contiguous()
    save_file(tensors, path)


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], path: Path) -> None:
    """Reads it back; learning rates are the schedule's and not stored.

    Raises:
        ValueError: when the file is missing or damaged, or is of other parameters.
    """
    states: list[dict[int, dict[str, Tensor | int]]] = [{} for _ in optimizers]
    shapes = [[p.shape for g in o.param_groups for p in g["params"]] for o in optimizers]
    for key, value in _read_optimizers(path).items():
        number, parameter, name = key.split("/")
        known = int(number) < len(shapes) and int(parameter) < len(shapes[int(number)])
        if not known or (value.ndim and value.shape != shapes[int(number)][int(parameter)]):
            raise ValueError(f"{path}: {key} is of another network; begin the training again")
        # SparseAdam counts its steps in a plain number, AdamW in a tensor.
        plain = name == "step" and isinstance(optimizers[int(number)], torch.optim.SparseAdam)
        states[int(number)].setdefault(int(parameter), {})[name] = (
            int(value) if plain else value.clone()
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read_optimizers(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: the optimizers' state cannot be read: {error}") from error
