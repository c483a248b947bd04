"""release: weights, index, catalogue and memory in one folder that serving can trust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console

if TYPE_CHECKING:
    from configs.load import Document
    from jobs.prepared import Prepared
    from models.release import Manifest


def main(
    config: console.ConfigFile,
    overrides: console.Overrides = None,
    wandb: Annotated[
        bool, typer.Option(help="Log to Weights & Biases (offline by default).")
    ] = True,
) -> None:
    """Packs the trained model and everybody's memory into runs/<name>/release/.

    \b
    The folder holds safetensors, item vectors, the catalogue, a snapshot of all memory as of the
    newest event, a model card, and a manifest with the SHA-256 of every file. Serving checks
    them. W&B gets the manifest and the card, never what is remembered of people.

    \b
    Examples:
      python -m jobs.release --config configs/online_retail.yaml
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from configs.load import load

    document = load(config, overrides or [])
    with console.step("pack the release") as note:
        manifest = release(document)
        note(f"{len(manifest.files)} files")
    log(document, manifest, track=wandb)
    rows = [[name, digest[:16]] for name, digest in manifest.files.items()]
    console.table(f"Release {manifest.release_id}", ["file", "SHA-256 begins"], rows)
    console.out.print(f"release: {document.folder / 'release'}", soft_wrap=True)


def release(document: Document) -> Manifest:
    """Writes the release of a run and returns its manifest.

    Raises:
        ValueError: when nothing fitting is prepared or trained.
    """
    from jobs.prepared import Prepared
    from jobs.trained import description_of, recommender_of
    from jobs.training import examples_of
    from models.card import Facts, model_card
    from models.release import save

    prepared = Prepared.open(document.folder / "prepared", document)
    facts = Facts(
        document.name,
        document=document.model_dump(mode="json"),
        training=description_of(document),
        prepared=prepared.manifest,
        evaluation=evaluation_of(document),
    )
    recommender = recommender_of(document, examples_of(prepared, document), until_ms=None)
    newest = int(prepared.histories.interactions["ts"].max())
    return save(
        document.folder / "release",
        name=document.name,
        recommender=recommender,
        model=document.model,
        serving=document.serving,
        watermark_ms=newest,
        metrics=metrics_of(document),
        write_snapshot=lambda path: snapshot(path, prepared, document, newest),
        card=model_card(facts),
    )


def log(document: Document, manifest: Manifest, *, track: bool) -> None:
    """The release as an artifact of a run of its own, beside the training's."""
    from jobs.tracking import Artifact, model_artifact, prepared_artifact, tracked
    from jobs.trained import description_of
    from models.card import NAME
    from models.release import MANIFEST

    training, folder = description_of(document), document.folder / "release"
    with tracked(document, "release", training=training["run_id"], track=track) as tracker:
        tracker.artifact(prepared_artifact(document, training["prepared"]), used=True)
        tracker.artifact(model_artifact(document, training), used=True)
        found = Artifact(
            name=f"release-{document.name}",
            kind="release",
            folder=folder,
            facts={
                "release": manifest.release_id,
                "training": training["run_id"],
                "prepared": training["prepared"],
                "model": training["digest"],
                "watermark_ms": manifest.watermark_ms,
                **manifest.metrics,
            },
            files=(folder / MANIFEST, folder / NAME),
            aliases=(manifest.release_id,),
        )
        tracker.artifact(found)
        tracker.log(manifest.metrics)


def snapshot(path: Any, prepared: Prepared, document: Document, newest: int) -> None:
    """Everybody's state and history, so that a store knows each event and can forget a part."""
    from models.memory import decode
    from models.stores import write_snapshot

    since, spec = newest - document.release.marks, document.memory.state
    histories = prepared.histories
    place = {user: n for n, user in enumerate(histories.users.to_pylist())}

    def rows() -> Iterator[tuple[Any, ...]]:
        for user_id, blob in sorted(prepared.states()):
            low, high = histories.offsets[place[user_id] : place[user_id] + 2]
            yield user_id, decode(blob, spec), histories.interactions[low:high]

    write_snapshot(path, rows(), spec=spec, marks_from=since)


def evaluation_of(document: Document) -> dict[str, Any] | None:
    """The report of the evaluation, if there was one of these weights."""
    from jobs.trained import description_of

    path = document.folder / "evaluation" / "report.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found["facts"]["trained"] == description_of(document)["made_at"] else None


def metrics_of(document: Document) -> dict[str, float]:
    """The headline figures of the evaluation."""
    found = evaluation_of(document)
    if found is None:
        return {}
    full = found["tables"][0]["methods"]["Ebb"]["mean_low_high"]
    return {f"test {name}": values[0] for name, values in full.items()}


if __name__ == "__main__":
    console.run(main)
