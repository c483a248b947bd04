"""A release: one folder with everything that serving needs, and a manifest of hashes.

    manifest.json         names, digests, calibration, metrics, SHA-256 of every other file
    config.json           ModelConfig and ServingConfig, resolved
    retriever.safetensors, ranker.safetensors
    items.safetensors     item vectors of the retriever: the index
    popularity.safetensors
    successors.safetensors  what follows what
    catalogue.parquet
    memory.parquet        snapshot of every user's memory
    MODEL_CARD.md         what it is, in words

Nothing in it can execute code, and nothing is read before its hash is checked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file

from models.card import NAME as CARD
from models.catalogue import Catalogue
from models.checkpoints import load_weights, save_weights, sha256_of
from models.config import DAY_MS, Config, Duration
from models.features import PopularityTable
from models.memory import Popularity
from models.model import ModelConfig, Recommender, ServingConfig, build
from models.ranking.calibration import Platt
from models.retrieval.retrieve import Retriever
from models.retrieval.successors import Successors

FORMAT = 3
SUCCESSORS = "successors.safetensors"


class ReleaseConfig(Config):
    """What a release carries beside the model."""

    marks: Duration = Field(7 * DAY_MS, gt=0)
    """How far back from the newest event the snapshot can tell a known event from a new one; as
    long as the store's `dedup_horizon`."""


MANIFEST = "manifest.json"


class Manifest(Config):
    """What a release says of itself."""

    format: int
    name: str
    created_at: datetime
    watermark_ms: int
    """Time of the newest event that the memory snapshot knows."""
    model_digest: str
    calibration: tuple[tuple[float, float], ...]
    """Scale and bias of each head."""
    metrics: dict[str, float]
    files: dict[str, str]
    """SHA-256 of every file."""

    @property
    def release_id(self) -> str:
        """Twelve hex digits that name exactly these files."""
        text = json.dumps([self.model_digest, self.calibration, self.files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Release:
    """A release, read and checked."""

    folder: Path
    manifest: Manifest
    model: ModelConfig
    serving: ServingConfig
    recommender: Recommender

    @property
    def snapshot(self) -> Path:
        """The memory snapshot, for a store to restore."""
        return self.folder / "memory.parquet"


def save(  # noqa: PLR0913  # a release has as many parts
    folder: Path,
    *,
    name: str,
    recommender: Recommender,
    model: ModelConfig,
    serving: ServingConfig,
    watermark_ms: int,
    metrics: Mapping[str, float],
    write_snapshot: Callable[[Path], object],
    card: str = "",
) -> Manifest:
    """Writes a release; the folder appears whole or not at all.

    Args:
        write_snapshot: writes the memory snapshot to the path given.
        card: Markdown, as `models.card` makes it; no file without one.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    config = {"model": model.model_dump(mode="json"), "serving": serving.model_dump(mode="json")}
    (part / "config.json").write_text(json.dumps(config, indent=1))
    towers, ranker = recommender.retriever.net, recommender.ranker
    save_weights(towers, part / "retriever.safetensors")
    save_weights(ranker, part / "ranker.safetensors")
    save_file({"vectors": recommender.retriever.index.vectors}, part / "items.safetensors")
    popularity = recommender.popularity.popularity
    counts = {
        "first_step": torch.tensor([popularity.first]),
        "counts": torch.from_numpy(popularity.counts),
    }
    save_file(counts, part / "popularity.safetensors")
    if recommender.retriever.successors is not None:
        save_file(recommender.retriever.successors.tensors(), part / SUCCESSORS)
    recommender.catalogue.save(part / "catalogue.parquet")
    write_snapshot(part / "memory.parquet")
    if card:
        (part / CARD).write_text(card)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        created_at=datetime.now(UTC),
        watermark_ms=watermark_ms,
        model_digest=model.digest(),
        calibration=tuple((p.scale, p.bias) for p in recommender.calibration),
        metrics=dict(metrics),
        files={path.name: sha256_of(path) for path in sorted(part.iterdir())},
    )
    (part / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return manifest


def load(folder: Path) -> Release:
    """Reads a release after checking every hash.

    Raises:
        ValueError: when there is none, a file is missing or changed, or the format is unknown.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"release {folder}: {name} is missing; make the release again")
        if sha256_of(path) != expected:
            raise ValueError(
                f"release {folder}: {name} is not the file that was released (its SHA-256 "
                "differs); make the release again or copy it anew"
            )
    config = json.loads((folder / "config.json").read_text())
    try:
        model = ModelConfig.model_validate(config["model"])
        serving = ServingConfig.model_validate(config["serving"])
    except ValidationError as error:
        raise ValueError(
            f"release {folder} has a config that this version does not read: {error}. Release "
            "again with this version."
        ) from error
    if model.digest() != manifest.model_digest:
        raise ValueError(
            f"release {folder} was made under model digest {manifest.model_digest}; this version "
            f"reads its config as {model.digest()}. Release again with this version."
        )
    return Release(folder, manifest, model, serving, _recommender(folder, manifest, model, serving))


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone.

    Raises:
        ValueError: when it is missing, damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"no release at {folder}: run `python -m jobs.release` first")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"release {folder}: {MANIFEST} is damaged: {error}") from error
    if manifest.format != FORMAT:
        raise ValueError(f"release {folder} has format {manifest.format}, not {FORMAT}")
    return manifest


def _successors(folder: Path, model: ModelConfig) -> Successors:
    return Successors(**load_file(folder / SUCCESSORS), config=model.retriever.successors)


def _recommender(
    folder: Path, manifest: Manifest, model: ModelConfig, serving: ServingConfig
) -> Recommender:
    catalogue = Catalogue.load(folder / "catalogue.parquet", model.catalogue)
    towers, ranker = build(catalogue, model)
    load_weights(towers, folder / "retriever.safetensors")
    load_weights(ranker, folder / "ranker.safetensors")
    stored = load_file(folder / "popularity.safetensors")
    popularity = Popularity(
        int(stored["first_step"][0]),
        stored["counts"].numpy().astype(np.int32),
        model.features.popularity_step,
    )
    retriever = Retriever(
        towers,
        catalogue=catalogue,
        popularity=PopularityTable(popularity, model.features.popularity_half_lives),
        features=model.features,
        config=serving.candidates,
        vectors=load_file(folder / "items.safetensors")["vectors"],
        successors=_successors(folder, model) if SUCCESSORS in manifest.files else None,
    )
    return Recommender(
        retriever=retriever,
        ranker=ranker,
        calibration=[Platt(scale, bias) for scale, bias in manifest.calibration],
        heads=model.heads,
        target=model.target,
    )
