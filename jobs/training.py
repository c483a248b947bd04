"""What each Ray Train worker does: the pure trainer, fed through Ray Data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from torch import nn

from configs.load import Document
from jobs.feeding import shard
from jobs.prepared import Prepared, replacing
from jobs.tracking import NoTracker, Tracker, WandbTracker, prepared_artifact
from jobs.watching import StopTrainingError, Watch
from models.examples import Examples, Ints, Requests, requests_of
from models.fitting import Feed, Splits, Trainer
from models.leave_one_out import training_events
from models.progress import STAGES, Figures, Progress
from models.warm_start import Origin

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
        trains=training_events_of(prepared, document, requests),
    )


def training_events_of(
    prepared: Prepared, document: Document, requests: Requests
) -> NDArray[np.bool_] | None:
    """The events that train, where that is not a matter of time; see `models.examples.Examples`."""
    if document.requests.split == "time":
        return None
    held = np.concatenate([rows_of(prepared, split) for split in ("validate", "test")])
    return training_events(prepared.histories, requests.user[held], requests.as_of_ms[held])


def rows_of(prepared: Prepared, split: str) -> Ints:
    """Rows of `prepared.requests` in one split."""
    return np.flatnonzero(np.asarray(prepared.requests["split"]) == split)


def trainer_of(
    document: Document, *, share: tuple[int, int] = (0, 1), device: torch.device | str = "cpu"
) -> Trainer:
    """The trainer of a document over what is prepared for it.

    Raises:
        ValueError: whatever speaks against training; see `models.fitting.Trainer`.
    """
    prepared = Prepared.open(document.folder / "prepared", document)
    origin = document.train.start_from
    return Trainer(
        examples_of(prepared, document),
        Splits(rows_of(prepared, "train"), rows_of(prepared, "validate")),
        model=document.model,
        serving=document.serving,
        train=document.train,
        share=share,
        device=device,
        origin=Origin.open(Path(origin), document.model) if origin else None,
    )


def units_of(document: Document) -> dict[str, Ints]:
    """Stage to the units that its feed shuffles; a Ray task.

    Whatever a worker would refuse is refused here, before there is one.
    """
    torch.set_num_threads(1)
    trainer = trainer_of(document)
    return {name: trainer.units(stage) for stage, name in enumerate(STAGES)}


def worker(settings: dict[str, Any]) -> None:
    """Trains; `settings` holds the document, whether to track, and the id of this training.

    With `settings["here"]`, a folder, Ray Train runs in this process and keeps no checkpoint
    itself: the last one lies in that folder.
    """
    document = Document.model_validate(settings["document"])
    context = ray.train.get_context()
    share = (context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(max(1, int(settings["threads"])))
    trainer = trainer_of(document, share=share, device=ray.train.torch.get_device())
    checkpoint = ray.train.get_checkpoint()
    if settings["here"] and Path(settings["here"]).is_dir():
        checkpoint = ray.train.Checkpoint.from_directory(settings["here"])
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.resume(Path(folder))
            _run(trainer, document, settings)
    else:
        _run(trainer, document, settings)


def _run(trainer: Trainer, document: Document, settings: dict[str, Any]) -> None:
    # Closed also when training fails: another one may follow in this process.
    with closing(_tracker(document, settings, first=trainer.rank == 0)) as tracker:
        _fit(trainer, document, settings, tracker)


def _fit(trainer: Trainer, document: Document, settings: dict[str, Any], tracker: Tracker) -> None:
    first = trainer.rank == 0
    lines = Lines(Path(settings["lines"]), tracker, first=first)
    lines.begin(trainer.progress)
    watch: Watch | None = settings["watch"]
    feed: Feed = partial(shard, seed=document.train.seed)
    with tempfile.TemporaryDirectory() as best, suppress(StopTrainingError):
        report = partial(_report, trainer, best=Path(best), here=settings["here"])

        def on_epoch(figures: Figures) -> None:
            lines.epoch(figures)
            report({**figures, "stage_number": STAGES.index(str(figures["stage"]))})
            if watch is not None:
                watch.check(figures, first=first)

        trainer.fit(
            feed if watch is None else watch.feed(feed),
            best=Path(best),
            on_step=lines.step,
            on_epoch=on_epoch,
            on_save=lambda: report({"stage_number": trainer.progress.stage}),
            on_health=lines.health,
            wrap=wrapped if trainer.world > 1 else lambda net: net,
        )


def wrapped(net: nn.Module) -> nn.Module:
    """DDP. Buffers are the same everywhere (the catalogue), so none is sent at every step."""
    return ray.train.torch.prepare_model(net, parallel_strategy_kwargs={"broadcast_buffers": False})


def _report(trainer: Trainer, told: Figures, *, best: Path, here: str | None) -> None:
    """A checkpoint from the first worker, figures from all; a barrier."""
    if here:
        with replacing(Path(here)) as folder:
            trainer.save(folder, best)
        ray.train.report(told, checkpoint=ray.train.Checkpoint.from_directory(here))
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = None
        if trainer.rank == 0 or trainer.sharded:
            trainer.save(Path(temporary), best)
        if trainer.rank == 0:
            checkpoint = ray.train.Checkpoint.from_directory(temporary)
        ray.train.report(told, checkpoint=checkpoint)


def _tracker(document: Document, settings: dict[str, Any], *, first: bool) -> Tracker:
    if not first or not settings["track"]:
        return NoTracker()
    watch: Watch | None = settings["watch"]
    tracker = WandbTracker(
        name=document.name,
        run_id=settings["run_id"],
        folder=document.folder,
        config=document.model_dump(mode="json"),
        group=watch.group if watch else settings["run_id"],
        job_type="tune" if watch else "train",
    )
    tracker.artifact(prepared_artifact(document, settings["prepared"]), used=True)
    return tracker


class Lines:
    """What the first worker says, line by line into a file that the driver follows."""

    def __init__(self, path: Path, tracker: Tracker, *, first: bool) -> None:
        self._path, self._tracker, self._first = path, tracker, first
        self._steps = 0

    def begin(self, progress: Progress) -> None:
        """A worker begins, at the start or where a checkpoint was."""
        if self._first and progress.stage < len(STAGES):
            at = {"stage": STAGES[progress.stage], "epoch": progress.epoch, "step": progress.step}
            self._write({"kind": "begin", "pid": os.getpid(), **at})

    def step(self, stage: str, done: float, loss: float) -> None:
        """One training step."""
        self._steps += 1
        if self._first and self._steps % STEPS_BETWEEN_LINES == 0:
            self._tracker.log({f"{stage}/loss": loss, f"{stage}/done": done})
            self._write({"kind": "step", "stage": stage, "done": done, "loss": loss})

    def health(self, stage: str, figures: Mapping[str, float]) -> None:
        """Gradients or tables, as `models.health` has them."""
        if self._first:
            self._tracker.log({f"{stage}/{name}": value for name, value in figures.items()})
            self._write({"kind": "health", "stage": stage, **figures})

    def epoch(self, figures: Figures) -> None:
        """One validated epoch."""
        if self._first:
            numbers = {k: v for k, v in figures.items() if not isinstance(v, str)}
            self._tracker.log({f"{figures['stage']}/{k}": v for k, v in numbers.items()})
            self._write({"kind": "epoch", **figures})

    def _write(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
