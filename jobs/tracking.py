"""Weights & Biases: a run for each job, offline unless the environment says otherwise.

A training, its evaluation and its release are runs of one group, tied by their artifacts: prepared
data to training to release. An artifact holds facts and hashes and points to the files where they
lie: what is remembered of people goes nowhere.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs import console

if TYPE_CHECKING:
    from configs.load import Document

PROJECT = "ebb"


@dataclass(frozen=True)
class Artifact:
    """Something that a job reads or makes, with what it came from."""

    name: str
    kind: str
    """`prepared`, `model` or `release`."""
    folder: Path
    """Where it lies; what is in it is not uploaded."""
    facts: Mapping[str, Any]
    """What it is: hashes, and the runs and artifacts that it is of."""
    files: tuple[Path, ...] = ()
    """What may be uploaded, such as a manifest."""
    aliases: tuple[str, ...] = ()


class Tracker(Protocol):
    """Where figures go."""

    def log(self, figures: Mapping[str, Any]) -> None:
        """One set of figures, of one moment."""

    def table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """A table: rows with the same keys."""

    def artifact(self, found: Artifact, *, used: bool = False) -> None:
        """What the job made, or what it `used`."""

    def close(self) -> None:
        """No more will come."""


class NoTracker:
    """Keeps nothing: `--no-wandb`, and every worker but the first."""

    def log(self, figures: Mapping[str, Any]) -> None:
        """Forgets them."""

    def table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Forgets it."""

    def artifact(self, found: Artifact, *, used: bool = False) -> None:
        """Forgets it."""

    def close(self) -> None:
        """Has nothing to close."""


@dataclass(frozen=True)
class WandbTracker:
    """A run of W&B. Without network, `wandb sync FOLDER` uploads it later."""

    name: str
    run_id: str
    """Keeps a resumed training in the same run."""
    folder: Path
    """Where offline runs are written, below `wandb/`."""
    config: Mapping[str, Any]
    group: str | None = None
    """Runs that belong together, such as the trials of one study."""
    job_type: str = "train"
    """The verb that made the run."""
    tags: tuple[str, ...] = ()
    _run: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        # Artifacts are staged there before they are uploaded; by default in the home folder.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder / "wandb" / "data"))
        self.folder.mkdir(parents=True, exist_ok=True)
        object.__setattr__(self, "_run", self._begun())

    def _begun(self) -> Any:
        """The run; offline when the server cannot be reached or the key is wrong."""
        import wandb

        options: dict[str, Any] = {
            "project": PROJECT,
            "name": self.name,
            "id": self.run_id,
            "group": self.group,
            "job_type": self.job_type,
            "tags": self.tags,
            "resume": "allow",
            "dir": self.folder,
            "config": dict(self.config),
        }
        try:
            return wandb.init(**options, mode=os.environ["WANDB_MODE"])
        except wandb.Error as error:  # a training does not end for the want of a server
            console.err.print(f"W&B: {error}; this run is kept offline", markup=False)
            # W&B keeps the id of a run that never began.
            return wandb.init(**{**options, "id": f"{self.run_id}-offline"}, mode="offline")

    def log(self, figures: Mapping[str, Any]) -> None:
        """Adds them to the run's history."""
        self._run.log(dict(figures))

    def table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Logs a W&B table."""
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [[row.get(key) for key in columns] for row in rows]
        self._run.log({name: wandb.Table(columns=columns, data=lines)})

    def artifact(self, found: Artifact, *, used: bool = False) -> None:
        """Logs it. W&B knows no used artifacts offline: there they are logged as made."""
        import wandb

        made = wandb.Artifact(found.name, type=found.kind, metadata=dict(found.facts))
        for path in found.files:
            made.add_file(str(path), policy="mutable")
        made.add_reference(found.folder.resolve().as_uri(), name=found.kind, checksum=False)
        if used and not self._run.offline:
            self._run.use_artifact(made)
        else:
            self._run.log_artifact(made, aliases=["latest", *found.aliases])

    def close(self) -> None:
        """Writes everything out, and returns when it is on disk: Ray ends a worker at once."""
        import wandb

        self._run.finish()
        wandb.teardown()


@contextmanager
def tracked(document: Document, verb: str, *, training: str, track: bool) -> Iterator[Tracker]:
    """A run for one job about a training.

    Args:
        training: id of the training's run, whose group this one joins.
        track: False keeps nothing.
    """
    if not track:
        yield NoTracker()
        return
    tracker = WandbTracker(
        name=f"{document.name} {verb}",
        run_id=f"{training}-{verb}-{uuid.uuid4().hex[:4]}",
        folder=document.folder,
        config={**document.model_dump(mode="json"), "training": training},
        group=training,
        job_type=verb,
    )
    try:
        yield tracker
    finally:
        tracker.close()


def prepared_artifact(document: Document, digest: str) -> Artifact:
    """The prepared data of a document, whose manifest has `digest`."""
    folder = document.folder / "prepared"
    return Artifact(
        name=f"prepared-{document.name}",
        kind="prepared",
        folder=folder,
        facts={"digest": digest, "source": document.source.path},
        files=(folder / "manifest.json",),
        aliases=(digest,),
    )


def model_artifact(document: Document, training: Mapping[str, Any]) -> Artifact:
    """The weights that a training kept; `training` is their `model.json`."""
    folder = document.folder / "model"
    facts = {key: training[key] for key in ("digest", "catalogue", "prepared", "run_id", "made_at")}
    return Artifact(
        name=f"model-{document.name}",
        kind="model",
        folder=folder,
        facts=facts,
        files=(folder / "config.json", folder / "model.json"),
        aliases=(training["run_id"],),
    )
