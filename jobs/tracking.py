"""Weights & Biases: one run for a training, offline unless the environment says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Where figures go."""

    def log(self, figures: Mapping[str, Any]) -> None:
        """One set of figures, of one moment."""

    def close(self) -> None:
        """No more will come."""


class NoTracker:
    """Keeps nothing: `--no-wandb`, and every worker but the first."""

    def log(self, figures: Mapping[str, Any]) -> None:
        """Forgets them."""

    def close(self) -> None:
        """Has nothing to close."""


class WandbTracker:
    """A run of W&B. Without network, `wandb sync FOLDER` uploads it later.

    Args:
        name: of the run; `run_id` keeps a resumed training in the same one.
        folder: where offline runs are written, below `wandb/`.
    """

    def __init__(self, *, name: str, run_id: str, folder: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        folder.mkdir(parents=True, exist_ok=True)
        import wandb

        self._run = wandb.init(
            project="ebb",
            name=name,
            id=run_id,
            resume="allow",
            dir=folder,
            config=dict(config),
        )

    def log(self, figures: Mapping[str, Any]) -> None:
        """Adds them to the run's history."""
        self._run.log(dict(figures))

    def close(self) -> None:
        """Writes everything out."""
        self._run.finish()
