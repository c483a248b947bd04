"""Weights and optimizer state as safetensors: nothing that is loaded can execute code.

A checkpoint is a folder of such files and a seal, written last, with the SHA-256 of each of them
and with what they are of. So one that was cut short, damaged or made under another specification
is told apart from a good one before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.tables import part_of

SEAL = "seal.json"


def sha256_of(path: Path) -> str:
    """Hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, facts: Mapping[str, str]) -> None:
    """Marks a checkpoint as whole; `facts` say what it is of."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != SEAL}
    (folder / SEAL).write_text(json.dumps({"facts": dict(facts), "files": files}, indent=1))


def check_seal(folder: Path, facts: Mapping[str, str]) -> None:
    """Checks that a checkpoint is whole and of what `facts` say.

    Raises:
        ValueError: naming the file or the fact that is wrong, and what to do.
    """
    path, again = folder / SEAL, "begin the training again without --resume"
    if not path.is_file():
        raise ValueError(f"checkpoint {folder}: {SEAL} is missing, it was cut short; {again}")
    try:
        found = json.loads(path.read_bytes())
        known, files = dict(found["facts"]), dict(found["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {folder}: {SEAL} is damaged ({error}); {again}") from error
    for name, wanted in facts.items():
        if known.get(name) != wanted:
            raise ValueError(
                f"checkpoint {folder} is of {name} {known.get(name)}, here it is {wanted}; restore "
                f"what it was, or {again}"
            )
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"checkpoint {folder}: {name} is missing; {again}")
        if sha256_of(folder / name) != digest:
            raise ValueError(f"checkpoint {folder}: {name} is damaged, its hash differs; {again}")


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
    """Writes what optimizers remember of each parameter; of one in parts, its whole."""
    tensors: dict[str, Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        parameters = _parameters(optimizer)
        for parameter, state in optimizer.state_dict()["state"].items():
            part = part_of(parameters[parameter])
            for name, value in state.items():
                found = torch.as_tensor(value)
                found = found if part is None or not found.ndim else part.whole(found)
                tensors[f"{number}/{parameter}/{name}"] = found.cpu().contiguous()
    save_file(tensors, path)


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], path: Path) -> None:
    """Reads it back; learning rates are the schedule's and not stored.

    Raises:
        ValueError: when the file is missing or damaged, or is of other parameters.
    """
    states: list[dict[int, dict[str, Tensor | int]]] = [{} for _ in optimizers]
    parameters = [_parameters(optimizer) for optimizer in optimizers]
    for key, value in _read_optimizers(path).items():
        number, parameter, name = key.split("/")
        known = int(number) < len(parameters) and int(parameter) < len(parameters[int(number)])
        of = parameters[int(number)][int(parameter)] if known else None
        part = None if of is None else part_of(of)
        value = value if part is None or not value.ndim else part.mine(value)
        if of is None or (value.ndim and value.shape != of.shape):
            raise ValueError(f"{path}: {key} is of another network; begin the training again")
        # SparseAdam counts its steps in a plain number, AdamW in a tensor.
        plain = name == "step" and isinstance(optimizers[int(number)], torch.optim.SparseAdam)
        states[int(number)].setdefault(int(parameter), {})[name] = (
            int(value) if plain else value.clone()
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """In the order that their states are numbered in."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _read_optimizers(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: the optimizers' state cannot be read: {error}") from error
