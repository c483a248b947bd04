"""What `prepare` writes and `train`, `evaluate` and `release` read.

`runs/<name>/prepared/` holds `users/*.parquet`, `requests/*.parquet`, `catalogue.parquet`,
`quarantine/*.parquet`, `ledger.json`, and last of all `manifest.json`: without it the folder is
incomplete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from configs.load import Document
from models.catalogue import Catalogue, CatalogueConfig
from models.events import INTERACTION
from models.memory import Histories

FORMAT = 1
SHAPING = ("source", "items", "catalogue", "memory", "requests")
"""The sections of a document that decide what prepared data says."""


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A fresh folder to write into, put in the place of `folder` when all went well.

    When it did not, what was there before is still there, and nothing half-written is.
    """
    fresh = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        old = folder.with_name(f"{folder.name}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def digests(document: Document) -> dict[str, str]:
    """The digest of each section that shapes prepared data."""
    return {name: getattr(document, name).digest() for name in SHAPING}


def write_manifest(folder: Path, document: Document, made_at: str) -> None:
    """Marks a prepared folder as complete."""
    manifest = {
        "format": FORMAT,
        "made_at": made_at,
        "digests": digests(document),
        "config": document.model_dump(mode="json"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


@dataclass(frozen=True)
class Prepared:
    """One prepared folder; its parts are read when they are first asked for."""

    folder: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path, document: Document | None = None) -> Prepared:
        """Opens a folder, and checks that it was made as `document` says.

        Raises:
            ValueError: when it is missing, incomplete, of another format, or made under another
                configuration; with the command that makes it anew.
        """
        path = folder / "manifest.json"
        again = "run `python -m jobs.prepare --config <your document>`"
        if not path.is_file():
            state = "is incomplete" if folder.exists() else "is not there"
            raise ValueError(f"{folder} {state}: {again}")
        manifest = json.loads(path.read_text())
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is of format {manifest.get('format')}, not {FORMAT}: {again}"
            )
        if document is not None:
            made, wanted = manifest["digests"], digests(document)
            changed = [name for name in SHAPING if made.get(name) != wanted[name]]
            if changed:
                raise ValueError(
                    f"{folder} was prepared under another configuration of {', '.join(changed)}: "
                    f"{again} again, or restore the old values (they are in {path})"
                )
        return Prepared(folder, manifest)

    @cached_property
    def ledger(self) -> dict[str, Any]:
        """What was read, kept and turned away."""
        found: dict[str, Any] = json.loads((self.folder / "ledger.json").read_text())
        return found

    @cached_property
    def catalogue(self) -> Catalogue:
        """All items."""
        config = CatalogueConfig.model_validate(self.manifest["config"]["catalogue"])
        return Catalogue.load(self.folder / "catalogue.parquet", config)

    @cached_property
    def requests(self) -> pa.Table:
        """All requests, in the order of time; columns as in `models.requests.request_schema`."""
        table = self._read("requests")
        return table.sort_by([("as_of", "ascending"), ("request_id", "ascending")])

    @cached_property
    def histories(self) -> Histories:
        """Every user's interactions."""
        names = INTERACTION.names or ()
        table = self._read("users", ["user_id", *names, "arrived"])
        lengths = np.concatenate(
            [np.zeros(1, np.int64), *(_lengths(chunk) for chunk in table["ts"].chunks)]
        )
        interactions = np.zeros(int(lengths.sum()), INTERACTION)
        for name in names:
            interactions[name] = _flat(table[name])
        return Histories(
            users=pa.concat_arrays(table["user_id"].chunks),
            offsets=np.cumsum(lengths),
            interactions=interactions,
            arrived=_flat(table["arrived"]).astype(np.int64),
        )

    def states(self) -> Iterator[tuple[str, bytes]]:
        """`(user_id, encoded state)` of every user's whole history."""
        parts = pads.dataset(self.folder / "users", format="parquet")
        for batch in parts.to_batches(columns=["user_id", "state"]):
            yield from zip(batch["user_id"].to_pylist(), batch["state"].to_pylist(), strict=True)

    def _read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        return pads.dataset(self.folder / part, format="parquet").to_table(columns=columns)


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = lists.value_lengths().to_numpy().astype(np.int64)
    return lengths


def _flat(column: pa.ChunkedArray) -> NDArray[Any]:
    """The values of all lists, end to end; chunk by chunk, as offsets are 32-bit."""
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.zeros(0)
