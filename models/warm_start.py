"""Weights of an earlier training to begin with: yesterday's release, or another run's model.

What belongs to an item or to a category is found by the id or the value, for the two catalogues
have their items at different places; the rest is taken as it is. What is new begins as ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models import release
from models.catalogue import Catalogue
from models.checkpoints import SEAL, check_seal, sha256_of
from models.layers import ItemEncoder
from models.model import ModelConfig

Ints = NDArray[np.int64]
FILES = ("config.json", "catalogue.parquet", "retriever.safetensors", "ranker.safetensors")


@dataclass(frozen=True)
class Origin:
    """A folder of weights that a training may begin with."""

    folder: Path
    name: str
    """Of the release, or the digest of the run's weights."""
    catalogue: Catalogue
    """That they were trained on."""

    @staticmethod
    def open(path: Path, model: ModelConfig) -> Origin:
        """Checks that a release, or the model of a run, can be loaded into networks of `model`.

        Raises:
            ValueError: when there is none, it is damaged, or its configuration is another one.
        """
        if (path / release.MANIFEST).is_file():
            folder, name = path, _check_release(path)
        else:
            folder = path if (path / SEAL).is_file() else path / "model"
            if not (folder / SEAL).is_file():
                raise ValueError(
                    f"train.start_from: {path} is neither a release nor a run with a model; leave "
                    "it out to begin with fresh weights"
                )
            check_seal(folder, {})
            name = sha256_of(folder / SEAL)[:12]
        given: dict[str, Any] = json.loads((folder / "config.json").read_text())["model"]
        wanted = model.model_dump(mode="json")
        changed = [key for key in {**wanted, **given} if given.get(key) != wanted.get(key)]
        if changed:
            raise ValueError(
                f"train.start_from: {path} was trained under another configuration of "
                f"{', '.join(changed)}; restore it, or leave train.start_from out"
            )
        catalogue = Catalogue.load(folder / "catalogue.parquet", model.catalogue)
        return Origin(folder, name, catalogue)

    def load(self, net: nn.Module, stage: str, catalogue: Catalogue) -> None:
        """Puts the weights of a stage into a fresh network over `catalogue`.

        Raises:
            ValueError: when the file is damaged or does not fit.
        """
        path = self.folder / f"{stage}.safetensors"
        try:
            old = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: the weights cannot be read: {error}") from error
        try:
            rows = rows_of(net, self.catalogue, catalogue, stored=old)
            net.load_state_dict(
                {
                    name: _placed(old[name], fresh, rows[name]) if name in rows else old[name]
                    for name, fresh in net.state_dict().items()
                }
            )
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: the weights do not fit this configuration: {error}") from (
                error
            )


def rows_of(
    net: nn.Module, old: Catalogue, new: Catalogue, *, stored: Mapping[str, Tensor]
) -> dict[str, Ints]:
    """Where the rows of tables over items and categories were in a network over another catalogue.

    Args:
        net: over `new`.
        stored: the weights over `old`.

    Returns:
        name of a table to the row in `old` of each of its rows; -1 for what is new.
    """
    places = np.where(np.arange(len(new)) > 0, old.places(new.keys), 0)
    items = np.where((places > 0) | (np.arange(len(new)) == 0), places, -1)
    codes = []
    for name, values in new.category_values.items():
        known = {value: code for code, value in enumerate(old.category_values[name])}
        codes.append(np.asarray([known.get(value, -1) for value in values]))
    found = {}
    for prefix, module in net.named_modules():
        if isinstance(module, ItemEncoder):
            row = f"{prefix}.id.row"
            was = None if module.id.row is None else stored[row].numpy()
            found[f"{prefix}.id.weight"] = module.id.rows_before(items, was)
            found[row] = np.full(len(new), -1)  # who has a row is told by what trains now
            found |= {f"{prefix}.fields.{n}.weight": code for n, code in enumerate(codes)}
    return found


def _placed(old: Tensor, fresh: Tensor, rows: Ints) -> Tensor:
    """Rows of `old` where they belong among those of `fresh`."""
    rows = rows[: len(fresh)]
    known = np.flatnonzero((rows >= 0) & (rows < len(old)))
    found = fresh.clone()
    found[torch.from_numpy(known).to(fresh.device)] = old[torch.from_numpy(rows[known])].to(
        fresh.device
    )
    return found


def _check_release(folder: Path) -> str:
    """The id of a release whose files are what they were."""
    manifest = release.read_manifest(folder)
    for name in FILES:
        if not (folder / name).is_file() or sha256_of(folder / name) != manifest.files.get(name):
            raise ValueError(
                f"train.start_from: release {folder}: {name} is missing or is not the file that "
                "was released; make the release again or copy it anew"
            )
    return manifest.release_id
