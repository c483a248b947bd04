"""What `train` keeps and `evaluate` and `release` read: `runs/<name>/model/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.load import Document
from jobs.prepared import SHAPING
from models.checkpoints import load_weights
from models.examples import Examples
from models.model import Recommender, build
from models.ranking.calibration import Platt
from models.ranking.ranker import MemoryRanker
from models.retrieval.retrieve import Retriever
from models.retrieval.successors import Successors
from models.retrieval.towers import TwoTower


def description_of(document: Document) -> dict[str, Any]:
    """What training says of the weights it kept.

    Raises:
        ValueError: when there are none, or they were trained under another configuration.
    """
    path = model_folder(document) / "model.json"
    if not path.is_file():
        raise ValueError(f"{path} is not there: run `python -m jobs.train --config ...` first")
    found: dict[str, Any] = json.loads(path.read_text())
    if found["digest"] != document.model.digest():
        raise ValueError(
            f"{path.parent} was trained under model digest {found['digest']}, the configuration "
            f"has {document.model.digest()}: train again, or restore the old values (in {path})"
        )
    # The model's digest says nothing of the split times: what one split trained on must not be
    # another one's test.
    made, wanted = found["config"], document.model_dump(mode="json")
    changed = [name for name in SHAPING if made.get(name) != wanted[name]]
    if changed:
        raise ValueError(
            f"{path.parent} was trained on what `prepare` made under another configuration of "
            f"{', '.join(changed)}: train again, or restore the old values (in {path})"
        )
    return found


def recommender_of(document: Document, examples: Examples, *, until_ms: int | None) -> Recommender:
    """The recommender with the weights that training kept.

    Args:
        until_ms: what follows what is remembered of all that had arrived before; None: of all,
            which would tell requests of the past how they ended.
    """
    description = description_of(document)
    if description.get("catalogue") != examples.catalogue.digest():
        raise ValueError(
            f"{model_folder(document)} was trained on another catalogue than `prepare` made since: "
            "train again; `train.start_from` takes these weights to begin with"
        )
    model = document.model
    towers, ranker = build(examples.catalogue, model)
    load_weights(towers, model_folder(document) / "retriever.safetensors")
    load_weights(ranker, model_folder(document) / "ranker.safetensors")
    return assembled(
        document,
        examples,
        towers=towers,
        ranker=ranker,
        calibration=[Platt(scale, bias) for scale, bias in description["calibration"]],
        successors=examples.successors(model.retriever.successors, until_ms=until_ms),
    )


def assembled(
    document: Document,
    examples: Examples,
    *,
    towers: TwoTower,
    ranker: MemoryRanker,
    calibration: Sequence[Platt],
    successors: Successors | None = None,
) -> Recommender:
    """The recommender of two networks, as a document has them used."""
    model = document.model
    return Recommender(
        retriever=Retriever(
            towers,
            catalogue=examples.catalogue,
            popularity=examples.popularity,
            features=model.features,
            config=document.candidates,
            successors=successors,
        ),
        ranker=ranker,
        calibration=calibration,
        heads=model.heads,
        target=model.target,
    )


def model_folder(document: Document) -> Path:
    """Where training keeps its weights."""
    return document.folder / "model"
