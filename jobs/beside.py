"""Other runs that an evaluation looks at: one beside this one, and this one under other seeds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from configs.load import Document, load


def run_at(path: str, key: str) -> Document:
    """The document of another run.

    Args:
        path: its document, or the folder that it wrote, whose model says how it was trained.
        key: names the place in errors.

    Raises:
        ValueError: when there is no such run, or it was not trained.
    """
    place = Path(path)
    if place.is_file():
        return load(place)
    told = place / "model" / "model.json"
    if not told.is_file():
        raise ValueError(
            f"{key}: {path} is neither a document nor the folder of a run that was trained (there "
            f"is no {told}); run `python -m jobs.train` for it first"
        )
    try:
        document = Document.model_validate(json.loads(told.read_text())["config"])
    except (ValidationError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{key}: {told} is not of this version: train it again ({str(error)[:200]})"
        ) from error
    return document.model_copy(update={"runs": str(place.parent), "name": place.name})


def same_requests(table: pa.Table) -> str:
    """Sixteen hex digits that are equal for the same requests with the same outcomes and splits.

    What was read of memory may differ.

    Args:
        table: `jobs.prepared.Prepared.requests`.
    """
    seen = hashlib.blake2b(digest_size=8)
    for name in ("request_id", "user_id", "split"):
        seen.update("\n".join(table[name].to_pylist()).encode())
    seen.update(table["as_of"].to_numpy().tobytes())
    for name in ("items", "labels"):
        seen.update(pc.list_value_length(table[name]).to_numpy().tobytes())
        seen.update(pc.list_flatten(table[name]).to_numpy().tobytes())
    return seen.hexdigest()


def report_at(path: str) -> dict[str, Any]:
    """What the evaluation of another run found.

    Raises:
        ValueError: when it was not evaluated.
    """
    told = Path(path) / "evaluation" / "report.json"
    if not told.is_file():
        raise ValueError(
            f"evaluate.seeds: {told} is not there; run `python -m jobs.evaluate` with --set "
            f"name={Path(path).name} first"
        )
    found: dict[str, Any] = json.loads(told.read_text())
    return found
