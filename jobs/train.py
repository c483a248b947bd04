"""train: the retriever and the ranker, on Ray Train."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.torch import TorchTrainer

    from configs.load import Document
    from jobs.prepared import Prepared
    from jobs.watching import Watch

DECIDING = (
    *("source", "items", "catalogue", "memory", "requests"),
    *("features", "retriever", "ranker", "candidates", "train"),
)
"""The sections of a document that decide what weights come out: one training keeps to them."""


def main(
    config: console.ConfigFile,
    overrides: console.Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was cut off.")
    ] = False,
    wandb: Annotated[
        bool, typer.Option(help="Log to Weights & Biases (offline by default).")
    ] = True,
) -> None:
    """Trains the two-tower retriever, then the ranker over what it retrieves.

    \b
    Reads runs/<name>/prepared/ and writes runs/<name>/:
      model/        best weights by validation, their calibration and the model's digest
      training/     checkpoints of Ray Train, to resume from
      wandb/        the run's figures; `wandb sync` uploads them

    \b
    Examples:
      python -m jobs.train --config configs/online_retail.yaml
      python -m jobs.train --config configs/online_retail.yaml --set train.num_workers=2
      python -m jobs.train --config configs/online_retail.yaml --set train.checkpoint_every=500
      python -m jobs.train --config configs/online_retail.yaml --resume
      python -m jobs.train --config mine.yaml --set train.start_from=runs/yesterday/release
      WANDB_MODE=online python -m jobs.train --config configs/online_retail.yaml
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load

    document = load(config, overrides or [])
    with console.ray_session():
        history = train(document, resume=resume, track=wandb)
    show(history)
    console.out.print(f"model: {document.folder / 'model'}", soft_wrap=True)


def train(document: Document, *, resume: bool = False, track: bool = True) -> list[dict[str, Any]]:
    """Trains on the Ray that is there and returns the figures of every epoch.

    Raises:
        ValueError: when nothing fitting is prepared, or there is nothing to resume.
    """
    with training(document, resume=resume, track=track) as last:
        return keep(last, document)


@contextmanager
def training(
    document: Document, *, resume: bool = False, track: bool = True, watch: Watch | None = None
) -> Iterator[Path]:
    """Trains, and gives the last checkpoint.

    Args:
        watch: who may stop it early; None: nobody.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs.feeding import in_order, pointers
    from jobs.prepared import Prepared
    from jobs.preparing.pipeline import quiet
    from jobs.training import units_of, worker

    quiet()
    document = absolute(document)
    prepared = Prepared.open(document.folder / "prepared", document)
    folder = document.folder / "training"
    enough(document, ray.cluster_resources().get("CPU", 0))
    workers, cpus = document.train.num_workers, document.train.cpus_per_worker
    run_id = begin(folder, document, prepared, resume=True) if resume else ""
    units: dict[str, Any] = ray.get(ray.remote(num_cpus=cpus)(units_of).remote(document))
    # Not before nothing speaks against it: an earlier training makes way.
    run_id = run_id or begin(folder, document, prepared, resume=False)
    gpu = document.train.use_gpu
    gpu = ray.cluster_resources().get("GPU", 0) > 0 if gpu is None else gpu
    here = None if workers else str(folder / "last")
    settings = {
        "document": document.model_dump(mode="json"),
        "track": track,
        "run_id": run_id,
        "prepared": prepared.digest,
        "lines": str(folder / "lines.jsonl"),
        "threads": cpus,
        "here": here,
        "watch": watch,
    }
    trainer = TorchTrainer(
        worker,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus},
        ),
        datasets={
            stage: pointers(of_stage, seed=document.train.seed) for stage, of_stage in units.items()
        },
        dataset_config=in_order(),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=document.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with following(folder / "lines.jsonl"):
        result = fitted(trainer)
    if here:  # Ray itself keeps no checkpoint then
        yield Path(here)
        return
    with result.checkpoint.as_directory() as last:
        yield Path(last)


def fitted(trainer: TorchTrainer) -> Result:
    """Runs all workers to the end.

    Raises:
        ValueError: what a worker found wrong; Ray wraps it.
    """
    from ray.train import WorkerGroupError

    try:
        return trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, ValueError):
                raise failure from None
        raise


def absolute(document: Document) -> Document:
    """The same with paths that workers understand, whatever folder they start in."""
    train = document.train
    if train.start_from is not None:
        train = train.model_copy(update={"start_from": str(Path(train.start_from).resolve())})
    return document.model_copy(update={"runs": str(Path(document.runs).resolve()), "train": train})


def begin(folder: Path, document: Document, prepared: Prepared, *, resume: bool) -> str:
    """Readies the training folder and returns the id of the training, the same when resumed."""
    path = folder / "training.json"
    digests = {name: getattr(document, name).digest() for name in DECIDING}
    digests |= {"train": document.train.deciding(), "prepared data": prepared.digest}
    if resume:
        if not path.is_file():
            raise ValueError(f"{folder}: there is no training to resume; leave --resume out")
        found = json.loads(path.read_text())
        changed = [name for name in digests if found["digests"].get(name) != digests[name]]
        if changed:
            raise ValueError(
                f"{folder} was begun under another configuration of {', '.join(changed)}; "
                "restore it, or leave --resume out"
            )
        return str(found["run_id"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run_id = uuid.uuid4().hex[:8]
    said = {"run_id": run_id, "started_from": document.train.start_from, "digests": digests}
    path.write_text(json.dumps(said))
    return run_id


def enough(document: Document, available: float) -> None:
    """Raises ValueError when the workers would wait for CPUs that are not there."""
    wanted = document.train.num_workers * document.train.cpus_per_worker
    if wanted > available:
        raise ValueError(
            f"train: {document.train.num_workers} workers of {document.train.cpus_per_worker:g} "
            f"CPUs need {wanted:g}, Ray has {available:g}; lower train.num_workers or "
            "train.cpus_per_worker"
        )


def keep(checkpoint: Path, document: Document) -> list[dict[str, Any]]:
    """Puts the best weights of the last checkpoint into the run's `model` folder."""
    from jobs.prepared import Prepared, replacing
    from models.checkpoints import check_seal, seal
    from models.progress import STAGES, Progress

    prepared = Prepared.open(document.folder / "prepared", document)
    facts = {"model": document.model.digest(), "catalogue": prepared.catalogue.digest()}
    check_seal(checkpoint, facts)
    progress = Progress.load(checkpoint / "progress.json")
    training = json.loads((document.folder / "training" / "training.json").read_text())
    with replacing(document.folder / "model") as folder:
        for name in STAGES:
            shutil.copy(checkpoint / f"{name}.safetensors", folder)
        prepared.catalogue.save(folder / "catalogue.parquet")
        model = {"model": document.model.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(model, indent=1) + "\n")
        description = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "digest": document.model.digest(),
            "catalogue": facts["catalogue"],
            "prepared": training["digests"]["prepared data"],
            "run_id": training["run_id"],
            "started_from": training["started_from"],
            "calibration": progress.calibration,
            "history": progress.history,
            "config": document.model_dump(mode="json"),
        }
        (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")
        seal(folder, facts)
    return progress.history


@contextmanager
def following(path: Path) -> Iterator[None]:
    """Shows what the workers write while they train."""
    ended = threading.Event()
    thread = threading.Thread(target=follow, args=(path, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def follow(path: Path, ended: threading.Event) -> None:
    """Prints each epoch as a line, and between them how far it has come."""
    place = path.stat().st_size if path.is_file() else 0
    with console.out.status("starting workers") as status:
        while True:
            last = ended.is_set()
            if path.is_file():
                with path.open() as file:
                    file.seek(place)
                    text = file.read()
                whole = text[: text.rfind("\n") + 1]
                place += len(whole.encode())
                for line in whole.splitlines():
                    tell(json.loads(line), status)
            if last:
                return
            ended.wait(0.5)


def tell(line: dict[str, Any], status: Any) -> None:
    """Shows one line of a worker."""
    if line["kind"] == "step":
        status.update(f"{line['stage']}: {line['done']:.0%}, loss {line['loss']:.3f}")
    elif line["kind"] == "begin" and (line["epoch"] or line["step"]):
        place = f"epoch {line['epoch'] + 1} after {line['step']:,} steps"
        console.out.print(f"  {line['stage']:<10} goes on in {place}", soft_wrap=True)
    elif line["kind"] == "epoch":
        loss = f"loss {line['loss']:.4f}" if "loss" in line else "as it was given"
        console.out.print(
            f"  {line['stage']:<10} epoch {line['epoch'] + 1}  {loss}  "
            f"validation recall@10 {line['validate_recall@10']:.4f}  "
            f"ndcg@10 {line['validate_ndcg@10']:.4f}  {line['seconds']:6.1f} s",
            soft_wrap=True,
        )


def show(history: list[dict[str, Any]]) -> None:
    """The table at the end: the best epoch of each stage."""
    rows = []
    for stage in dict.fromkeys(figures["stage"] for figures in history):
        epochs = [figures for figures in history if figures["stage"] == stage]
        best = max(epochs, key=lambda figures: figures["validate_ndcg@10"])
        rows.append(
            [
                stage,
                f"{best['epoch'] + 1} of {epochs[-1]['epoch'] + 1}",
                best.get("loss", float("nan")),
                best["validate_recall@10"],
                best["validate_ndcg@10"],
                best["validate_mrr"],
            ]
        )
    header = ["stage", "best epoch", "loss", "recall@10", "ndcg@10", "mrr"]
    console.table("Validation of the weights kept", header, rows)


if __name__ == "__main__":
    console.run(main)
