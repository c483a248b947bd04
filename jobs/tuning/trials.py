"""What runs on Ray for a trial: `prepare` where its memory needs it, and one training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import Document
from jobs.prepared import Prepared, digests
from jobs.train import training
from jobs.trained import assembled
from jobs.training import examples_of, rows_of
from jobs.watching import Watch
from models.config import digest_of
from models.cost import Cost, serving_cost
from models.model import build
from models.progress import Progress
from models.ranking.calibration import Platt

QUALITY = "validate_ndcg@10"


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    history: list[dict[str, Any]]
    """The figures of every epoch."""
    cost: Cost | None

    def best(self, stage: str) -> dict[str, Any]:
        """The epoch of a stage whose weights a training keeps."""
        epochs = [figures for figures in self.history if figures["stage"] == stage]
        return max(epochs, key=lambda figures: float(figures[QUALITY]))


def run_trial(
    document: Document, prepared: str, watch: Watch, *, track: bool, costs: bool
) -> Outcome:
    """Trains under one trial's document; a Ray task.

    Args:
        prepared: the folder of prepared data that fits the document.
        costs: whether to count what a request costs, too.
    """
    folder = document.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "prepared").symlink_to(Path(prepared).resolve(), target_is_directory=True)
    with training(document, track=track, watch=watch) as last:
        history = Progress.load(last / "progress.json").history
    return Outcome(history, cost_of(document) if costs else None)


def tidy(folder: Path) -> None:
    """Removes the weights of a trial: those of a hundred would fill the disk.

    What is best is trained again from its document.
    """
    for name in ("checkpoints", "last"):
        shutil.rmtree(folder / "training" / name, ignore_errors=True)


def cost_of(document: Document) -> Cost:
    """What a request costs under a document; the weights need not be trained for that."""
    prepared = Prepared.open(document.folder / "prepared", document)
    examples = examples_of(prepared, document)
    model = document.model
    towers, ranker = build(examples.catalogue, model)
    recommender = assembled(
        document,
        examples,
        towers=towers,
        ranker=ranker,
        calibration=[Platt(1.0, 0.0)] * len(model.heads),
    )
    user = examples.user_side(np.asarray(rows_of(prepared, "validate")[-1:]))
    return serving_cost(recommender, user, document.candidates.total)


def run_prepare(document: Document) -> None:
    """Prepares what trials of one digest share; a Ray task, whose own tasks do the work."""
    from jobs.prepare import prepare

    prepare(document)


def digest_of_prepared(document: Document) -> str:
    """Of all that decides what prepared data says."""
    return digest_of(digests(document))


def is_prepared(document: Document) -> bool:
    """Whether fitting prepared data lies in a document's folder."""
    try:
        Prepared.open(document.folder / "prepared", document)
    except ValueError:
        return False
    return True
