"""What `prepare` writes and `train`, `evaluate` and `release` read.

`runs/<name>/prepared/` holds generations, and `manifest.json`, which is written last and says which
of them count: what it does not name is not there. A generation holds, of the users that it has,
`users/*.parquet` (with states), `histories/*.arrow`, `requests/*.parquet`, a file per part; of what
it read `quarantine/*.parquet`; and of everything up to then `catalogue.parquet`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from configs.load import Document
from jobs.preparing.building import Users, users_of
from jobs.preparing.cleaning import QUARANTINE
from models.catalogue import Catalogue, CatalogueConfig
from models.config import digest_of
from models.events import Interactions
from models.memory import Histories
from models.memory.segments import expand
from models.records import interactions, is_fact
from models.requests import RequestConfig

FORMAT = 2
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
    return {name: getattr(document, name).digest() for name in SHAPING} | {
        "log": digest_of(document.log)
    }


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
            changed = [name for name in wanted if made.get(name) != wanted[name]]
            if changed:
                raise ValueError(
                    f"{folder} was prepared under another configuration of {', '.join(changed)}: "
                    f"{again} again, or restore the old values (they are in {path})"
                )
        return Prepared(folder, manifest)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of all that the manifest says: what was read, kept and made of it."""
        return digest_of(self.manifest)

    @property
    def ledger(self) -> dict[str, Any]:
        """What was read, kept and turned away."""
        found: dict[str, Any] = self.manifest["ledger"]
        return found

    @property
    def generations(self) -> list[Path]:
        """The folders that count, the oldest first."""
        return [self.folder / name for name in self.manifest["generations"]]

    @cached_property
    def catalogue(self) -> Catalogue:
        """All items."""
        config = CatalogueConfig.model_validate(self.manifest["config"]["catalogue"])
        return Catalogue.load(self.generations[-1] / "catalogue.parquet", config)

    @cached_property
    def requests(self) -> pa.Table:
        """All requests, in the order of time; columns as in `models.requests.request_schema`.

        Where outcomes have a window, requests are left out whose window is not over yet.
        """
        found = [users.requests(users.live) for users in self._users()]
        table = pa.concat_tables(found)
        window = RequestConfig.model_validate(self.manifest["config"]["requests"]).outcome_window
        if window is not None:
            last = datetime.fromisoformat(self.ledger["last_arrived"]).timestamp() * 1000
            ripe = pc.less_equal(pc.add(table["as_of"], window), round(last))
            table = table.filter(ripe)
        return table.sort_by([("as_of", "ascending"), ("request_id", "ascending")])

    @cached_property
    def histories(self) -> Histories:
        """Every user's interactions; users in the order of parts, and by id within each."""
        parts = [_history(self._users(part)) for part in range(int(self.manifest["num_parts"]))]
        lengths = np.concatenate([np.zeros(1, np.int64), *(part[1] for part in parts)])
        return Histories(
            users=pa.concat_arrays([part[0] for part in parts]),
            offsets=np.cumsum(lengths),
            interactions=np.concatenate([part[2] for part in parts]),
            arrived=np.concatenate([part[3] for part in parts]),
        )

    def states(self) -> Iterator[tuple[str, bytes]]:
        """`(user_id, encoded state)` of every user's whole history."""
        for users in self._users():
            for batch in users.states().to_batches():
                yield from zip(
                    batch["user_id"].to_pylist(), batch["state"].to_pylist(), strict=True
                )

    @property
    def quarantine(self) -> pa.Table:
        """All rows that were turned away, in `jobs.preparing.cleaning.QUARANTINE`."""
        folders = (generation / "quarantine" for generation in self.generations)
        files = [str(path) for folder in folders for path in sorted(folder.glob("*.parquet"))]
        return pads.dataset(files, schema=QUARANTINE, format="parquet").to_table()

    def _users(self, part: int | None = None) -> list[Users]:
        parts = range(self.manifest["num_parts"]) if part is None else [part]
        return [users for one in parts for users in users_of(self.generations, one)]


def _history(
    generations: list[Users],
) -> tuple[pa.Array, NDArray[np.int64], Interactions, NDArray[np.int64]]:
    """Users of one part, sorted, how many interactions each has, the interactions, arrivals."""
    users, lengths, records, arrived = [], [], [], []
    for one in generations:
        rows, num = one.rows(one.live), one.table["num"].to_numpy()[one.live]
        found = interactions(rows)
        real = ~is_fact(found)
        owner = np.repeat(np.arange(len(num)), num)
        users.append(one.table["user_id"].combine_chunks().filter(pa.array(one.live)))
        lengths.append(np.bincount(owner[real], minlength=len(num)))
        records.append(found if real.all() else found[real])
        arrived.append(rows["arrived"].to_numpy()[real])
    ids, num = pa.concat_arrays(users), np.concatenate(lengths)
    whole, when = np.concatenate(records), np.concatenate(arrived)
    if len(generations) == 1:
        return ids, num, whole, when
    order = pc.sort_indices(ids).to_numpy()
    ends = np.append(0, np.cumsum(num))
    rows = expand(ends[order], ends[order + 1])[1]
    return ids.take(pa.array(order)), num[order], whole[rows], when[rows]
