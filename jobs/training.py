"""What each Ray Train worker does: the pure trainer, fed by a Ray Data shard."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch

from configs.load import Document
from jobs.prepared import Prepared, replacing
from jobs.tracking import NoTracker, Tracker, WandbTracker
from models.examples import Examples, Ints, requests_of
from models.fitting import STAGES, Splits, Trainer
from models.shuffling import shares, shuffled

STEPS_BETWEEN_LINES = 20


def examples_of(prepared: Prepared, document: Document) -> Examples:
    """All requests of a prepared folder, ready to be gathered."""
    model = document.model
    requests = requests_of(
        prepared.requests,
        histories=prepared.histories,
        catalogue=prepared.catalogue,
        features=model.features,
    )
    return Examples(
        requests,
        histories=prepared.histories,
        catalogue=prepared.catalogue,
        features=model.features,
        memory=model.memory,
    )


def rows_of(prepared: Prepared, split: str) -> Ints:
    """Rows of `prepared.requests` in one split."""
    return np.flatnonzero(np.asarray(prepared.requests["split"]) == split)


def worker(settings: dict[str, Any]) -> None:
    """Trains; `settings` holds the document, whether to track, and the id of this training.

    With `settings["here"]`, a folder, Ray Train runs in this process and keeps no checkpoint
    itself: the last one lies in that folder.
    """
    document = Document.model_validate(settings["document"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(settings["threads"])))
    prepared = Prepared.open(document.folder / "prepared", document)
    trainer = Trainer(
        examples_of(prepared, document),
        Splits(rows_of(prepared, "train"), rows_of(prepared, "validate")),
        model=document.model,
        serving=document.serving,
        train=document.train,
        share=(rank, world),
        device=ray.train.torch.get_device(),
    )
    checkpoint = ray.train.get_checkpoint()
    if settings["here"] and Path(settings["here"]).is_dir():
        checkpoint = ray.train.Checkpoint.from_directory(settings["here"])
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.resume(Path(folder))
            _run(trainer, document, settings, rank, world)
    else:
        _run(trainer, document, settings, rank, world)


def _run(
    trainer: Trainer, document: Document, settings: dict[str, Any], rank: int, world: int
) -> None:
    tracker = _tracker(document, settings, rank)
    lines = Lines(Path(settings["lines"]), tracker, first=rank == 0)
    with tempfile.TemporaryDirectory() as best:
        trainer.fit(
            partial(shard, seed=document.train.seed, world=world),
            best=Path(best),
            on_step=lines.step,
            on_epoch=partial(
                _report, trainer, lines, best=Path(best), first=rank == 0, here=settings["here"]
            ),
            wrap=ray.train.torch.prepare_model if world > 1 else lambda net: net,
        )
    tracker.close()


def pointers(rows: Ints, num_workers: int, *, seed: int) -> ray.data.Dataset:
    """Rows as a Ray data set that `streaming_split` hands out to workers block by block."""
    parts = shares(rows, max(num_workers, 1), seed=seed)
    return ray.data.from_arrow([pa.table({"row": part}) for part in parts])


def in_order() -> ray.train.DataConfig:
    """Each worker gets the same blocks in every run: pointers are small, wherever they lie."""
    return ray.train.DataConfig(
        execution_options=ray.data.ExecutionOptions(preserve_order=True),
        enable_shard_locality=False,
    )


def shard(stage: int, epoch: int, batch: int, *, seed: int, world: int) -> Iterator[Ints]:
    """This worker's batches of one epoch, shuffled anew each time."""
    blocks = ray.train.get_dataset_shard("train").iter_batches(
        batch_size=None,
        batch_format="numpy",
        # With two, Ray hands batches on in the order that its threads finish them: no run is the
        # same twice.
        prefetch_batches=1,
    )
    return shuffled(
        (block["row"] for block in blocks),
        max(batch // world, 1),
        np.random.default_rng(seed * 1000 + stage * 100 + epoch),
    )


def _report(
    trainer: Trainer,
    lines: Lines,
    figures: dict[str, float | str],
    *,
    best: Path,
    first: bool,
    here: str | None,
) -> None:
    """Validation is done: a checkpoint from the first worker, figures from all."""
    lines.epoch(figures)
    told = {**figures, "stage_number": STAGES.index(str(figures["stage"]))}
    if here:
        with replacing(Path(here)) as folder:
            trainer.save(folder, best)
        ray.train.report(told, checkpoint=ray.train.Checkpoint.from_directory(here))
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = None
        if first:
            trainer.save(Path(temporary), best)
            checkpoint = ray.train.Checkpoint.from_directory(temporary)
        ray.train.report(told, checkpoint=checkpoint)


def _tracker(document: Document, settings: dict[str, Any], rank: int) -> Tracker:
    if rank or not settings["track"]:
        return NoTracker()
    return WandbTracker(
        name=document.name,
        run_id=settings["run_id"],
        folder=document.folder,
        config=document.model_dump(mode="json"),
    )


class Lines:
    """What the first worker says, line by line into a file that the driver follows."""

    def __init__(self, path: Path, tracker: Tracker, *, first: bool) -> None:
        self._path, self._tracker, self._first = path, tracker, first
        self._steps = 0

    def step(self, stage: str, done: float, loss: float) -> None:
        """One training step."""
        self._steps += 1
        if self._first and self._steps % STEPS_BETWEEN_LINES == 0:
            self._tracker.log({f"{stage}/loss": loss, f"{stage}/done": done})
            self._write({"kind": "step", "stage": stage, "done": done, "loss": loss})

    def epoch(self, figures: dict[str, float | str]) -> None:
        """One validated epoch."""
        if self._first:
            numbers = {k: v for k, v in figures.items() if not isinstance(v, str)}
            self._tracker.log({f"{figures['stage']}/{k}": v for k, v in numbers.items()})
            self._write({"kind": "epoch", **figures})

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
