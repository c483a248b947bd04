"""One part of the users, from the rows of all chunks to its files of a generation.

Plain functions on files; `pipeline` runs them on Ray. A generation holds all that is known of the
users that it has: their histories, states and requests. Of several generations the newest one that
has a user speaks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.files import once, open_arrow, write_arrow, write_table
from jobs.preparing.cleaning import rows_of_part
from models.catalogue import Catalogue
from models.mapping import CONTEXT
from models.memory import MemorySpec
from models.memory.segments import expand
from models.parts import COUNTS, Part, partition
from models.records import schema
from models.requests import RequestConfig

Bools = NDArray[np.bool_]


def file_of(folder: Path, kind: str, part: int) -> Path:
    """Where a generation keeps `users`, `requests` or `histories` of a part."""
    return folder / kind / f"{part:05d}.{'arrow' if kind == 'histories' else 'parquet'}"


@dataclass(frozen=True)
class Users:
    """The users of one part in one generation, and which of them it still speaks of."""

    folder: Path
    part: int
    table: pa.Table
    """`user_id` and `COUNTS`."""
    live: Bools

    def rows(self, mask: Bools) -> pa.Table:
        """The distinct rows of some users, user after user, without `user_id`.

        Only what is asked for is read from the disk.
        """
        whole = open_arrow(file_of(self.folder, "histories", self.part)).read_all()
        if mask.all():
            return whole
        ends = np.append(0, np.cumsum(self.table["num"].to_numpy()))
        chosen = np.flatnonzero(mask)
        return whole.take(pa.array(expand(ends[chosen], ends[chosen + 1])[1]))

    def requests(self, mask: Bools) -> pa.Table:
        """The requests of some users."""
        found = pq.read_table(file_of(self.folder, "requests", self.part))
        if mask.all():
            return found
        chosen = self.table["user_id"].filter(pa.array(mask))
        return found.filter(pc.is_in(found["user_id"], value_set=chosen))

    def states(self) -> pa.Table:
        """`user_id` and `state` of the live users."""
        path = file_of(self.folder, "users", self.part)
        found = pq.read_table(path, columns=["user_id", "state"])
        return found if self.live.all() else found.filter(pa.array(self.live))


def users_of(folders: Sequence[Path], part: int) -> list[Users]:
    """The users of a part in each generation, the oldest first; each user is live in one."""
    found: list[Users] = []
    seen: pa.Array | None = None
    for folder in reversed(folders):
        table = pq.read_table(file_of(folder, "users", part), columns=["user_id", *COUNTS])
        ids = table["user_id"].combine_chunks()
        if seen is None:
            live, seen = np.ones(len(ids), bool), ids
        else:
            live = ~np.asarray(pc.is_in(ids, value_set=seen))
            seen = pa.concat_arrays([seen, ids.filter(pa.array(live))])
        found.append(Users(folder, part, table, live))
    return found[::-1]


@dataclass(frozen=True)
class Building:
    """What is done with every part of the users."""

    folder: Path
    """The generation to write."""
    chunks: tuple[str, ...]
    """Ids of what is new."""
    parents: tuple[Path, ...]
    """The generations that went before, the oldest first."""
    everyone: bool
    """Whether users without new rows are taken along, so that no older generation is needed."""
    num_parts: int
    requests: RequestConfig
    memory: MemorySpec

    def run(self, part: int, catalogue: Catalogue) -> dict[str, Any]:
        """Writes a part, unless that is done; returns by how much the counts of users grew."""
        return once(
            self.folder / "parts" / f"{part:05d}.json", partial(self._build, part, catalogue)
        )

    @cached_property
    def schema(self) -> pa.Schema:
        """Of rows."""
        return schema(self.requests.context, slates=self.requests.per == "request")

    def _build(self, part: int, catalogue: Catalogue) -> dict[str, Any]:
        fresh = rows_of_part(self.folder, self.chunks, part, self.num_parts)
        rows = pa.Table.from_batches(fresh, self.schema)
        old, before = self._before(part, rows["user_id"])
        done = partition(
            rows,
            requests=self.requests,
            memory=self.memory,
            interests=catalogue.interests,
            before=before,
        )
        self._write(part, done)
        return {
            "rows": len(rows),
            "duplicates": done.num_duplicates,
            "users": len(done.users) - old.pop("users"),
            **{name: (pc.sum(done.users[name]).as_py() or 0) - old[name] for name in COUNTS},
        }

    def _before(
        self, part: int, coming: pa.ChunkedArray
    ) -> tuple[dict[str, int], tuple[pa.Table, pa.Table] | None]:
        """Counts, rows and requests of an earlier build, of the users that have new rows."""
        counts = dict.fromkeys(("users", *COUNTS), 0)
        if not self.parents:
            return counts, None
        coming = pc.unique(coming)
        rows, requests = [], []
        for users in users_of(self.parents, part):
            mask = users.live.copy()
            if not self.everyone:
                mask &= np.asarray(pc.is_in(users.table["user_id"], value_set=coming))
            if not mask.any():
                continue
            chosen = users.table.filter(pa.array(mask))
            counts["users"] += len(chosen)
            for name in COUNTS:
                counts[name] += pc.sum(chosen[name]).as_py()
            rows.append(_with_users(users.rows(mask), chosen, self.schema))
            requests.append(users.requests(mask))
        if not rows:
            return counts, None
        return counts, (pa.concat_tables(rows), pa.concat_tables(requests))

    def _write(self, part: int, done: Part) -> None:
        rows = done.rows
        for place, field in enumerate(rows.schema):
            if field.name.startswith(CONTEXT):  # few values, and the file is not compressed
                coded = rows[field.name].combine_chunks().dictionary_encode()
                rows = rows.set_column(place, field.name, coded)
        write_table(done.users, file_of(self.folder, "users", part))
        write_arrow(rows, file_of(self.folder, "histories", part))
        write_table(done.requests, file_of(self.folder, "requests", part))


def _with_users(rows: pa.Table, users: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Rows with the ids of the users that they lie behind."""
    place = np.repeat(np.arange(len(users)), users["num"].to_numpy())
    ids = users["user_id"].combine_chunks().take(pa.array(place))
    return rows.add_column(0, "user_id", ids).select(wanted.names).cast(wanted)
