"""A snapshot: all users' memories in one Parquet file, written by a store or by a batch build.

Rows `(user_id, state, ts, event, item, session, value, interest, action, said)` in order of user
id: `state` is bytes of the memory codec, then come lists, the user's whole history in `(ts, event)`
order, and the JSON rows of facts in it. The file's metadata (key `ebb`, JSON) holds the fields of
`SnapshotInfo` and the tombstones.

The state is the fold of the history, and the facts in it; so a store that loads the snapshot can
read a lifelong history and forget a part of it. It must not apply those events again: it knows them
by their keys. An unknown event before `marks_from` counts as late.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from models.events import INTERACTION, Interactions
from models.memory import State, StateSpec, decode, encode
from models.stores.tombstones import Tombstones, join

VERSION = 3
_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("state", pa.binary(), nullable=False),
        *(
            pa.field(name, pa.list_(pa.from_numpy_dtype(INTERACTION[name])), nullable=False)
            for name in INTERACTION.names or ()
        ),
        pa.field("said", pa.list_(pa.binary()), nullable=False),
    ]
)
_ROWS = 512  # users held in memory at a time
# Ids and states hardly repeat and nobody searches them by range.
_PARQUET = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


class SnapshotRow(NamedTuple):
    """One user: the state, and all events that made it, `(N,)` in `(ts, event)` order."""

    user_id: str
    state: State
    history: Interactions
    said: Sequence[bytes] = ()
    """JSON rows of the facts among them, where those are known; see `models.stores.said`."""


@dataclass(frozen=True)
class SnapshotInfo:
    """What a snapshot says of itself. Times are milliseconds since 1970."""

    version: int
    snapshot_id: str
    """Hash of all the rest: equal memories have equal snapshots."""
    spec_digest: str
    watermark: int
    """Time of the newest event applied; 0 where there is none."""
    marks_from: int
    offset: int
    """Sequence number of the last event in it: a replay goes on with `stream(after=offset)`."""
    num_users: int


def write_snapshot(
    path: Path | str,
    rows: Iterable[SnapshotRow | tuple[str, State, Interactions]],
    *,
    spec: StateSpec,
    marks_from: int,
    offset: int = 0,
    tombstones: Tombstones | None = None,
) -> SnapshotInfo:
    """Writes a snapshot; the file appears whole or not at all.

    Args:
        rows: `SnapshotRow`s or plain tuples of the same, in rising order of user id.
        marks_from: an unknown event before it is late. A batch build gives its newest ts less the
            dedup horizon.
        offset: the store's; 0 for a batch build.
        tombstones: of what was forgotten so far.

    Raises:
        ValueError: when users are repeated or out of order, or the events of one are.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    seal = _Seal(spec.digest(), marks_from, offset)
    graves = {key.hex(): ts for key, ts in sorted(join(tombstones or {}).items())}
    ordered = (SnapshotRow(*row) for row in rows)
    try:
        with pq.ParquetWriter(unfinished, _SCHEMA, **_PARQUET) as writer:
            while chunk := list(islice(ordered, _ROWS)):
                blobs = [encode(row.state, spec) for row in chunk]
                for row, blob in zip(chunk, blobs, strict=True):
                    seal.add(row, blob)
                writer.write_batch(_to_batch(chunk, blobs))
            info = seal.close(graves)
            document = orjson.dumps({**asdict(info), "tombstones": graves})
            writer.add_key_value_metadata({"ebb": document.decode()})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return info


class Snapshot:
    """A snapshot opened for reading: `info` and `tombstones` at once, `rows` one by one.

    Raises:
        ValueError: for a file that is no snapshot, or of another version or state spec.
    """

    def __init__(self, path: Path | str, spec: StateSpec) -> None:
        self.path, self._spec = Path(path), spec
        with _plainly(self.path):
            metadata = pq.read_metadata(self.path).metadata or {}
            document = orjson.loads(metadata.get(b"ebb", b"{}"))
            self._graves = document.pop("tombstones", {})
            self.tombstones = {bytes.fromhex(key): ts for key, ts in self._graves.items()}
            self.info = SnapshotInfo(**document)
        if self.info.version != VERSION:
            raise ValueError(
                f"snapshot {self.path} is of version {self.info.version}; this release reads "
                f"version {VERSION}. Build it again with `python -m jobs.prepare`."
            )
        if self.info.spec_digest != spec.digest():
            raise ValueError(
                f"snapshot {self.path} was built under state spec {self.info.spec_digest}, not "
                f"{spec.digest()}. Build it again with `python -m jobs.prepare`, or use its spec."
            )

    def rows(self) -> Iterator[SnapshotRow]:
        """All users in order of id.

        Raises:
            ValueError: at the latest after the last row, when the content was altered.
        """
        seal = _Seal(self.info.spec_digest, self.info.marks_from, self.info.offset)
        with _plainly(self.path):
            with pq.ParquetFile(self.path) as file:
                if file.schema_arrow.remove_metadata() != _SCHEMA:
                    raise ValueError(f"its columns are {file.schema_arrow}")
                for batch in file.iter_batches(_ROWS):
                    for user_id, blob, history, said in _from_batch(batch):
                        row = SnapshotRow(user_id, decode(blob, self._spec), history, said)
                        seal.add(row, blob)
                        yield row
            if seal.close(self._graves) != self.info:
                raise ValueError("its content does not fit its id")


_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, LookupError)


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes the readers raise becomes one plain error."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is no snapshot or is damaged: {error}. Build it again or fetch it again."
        ) from error


def _to_batch(rows: list[SnapshotRow], blobs: list[bytes]) -> pa.RecordBatch:
    edges = np.cumsum([0, *(len(row.history) for row in rows)], dtype=np.int32)
    events = np.concatenate([row.history for row in rows])
    lists = [
        pa.ListArray.from_arrays(edges, np.ascontiguousarray(events[name]))
        for name in INTERACTION.names or ()
    ]
    users = pa.array([row.user_id for row in rows])
    said = pa.array([list(row.said) for row in rows], _SCHEMA.field("said").type)
    return pa.RecordBatch.from_arrays([users, pa.array(blobs), *lists, said], schema=_SCHEMA)


def _from_batch(batch: pa.RecordBatch) -> Iterator[tuple[str, bytes, Interactions, list[bytes]]]:
    lengths = {tuple(batch[name].value_lengths().to_pylist()) for name in INTERACTION.names or ()}
    if len(lengths) > 1:
        raise ValueError("its lists differ in length")
    edges = np.cumsum([0, *lengths.pop()]) if lengths else [0]
    events = np.empty(int(edges[-1]), INTERACTION)
    for name in INTERACTION.names or ():
        events[name] = batch[name].flatten().to_numpy()
    columns = (batch[name].to_pylist() for name in ("user_id", "state", "said"))
    for place, (user_id, blob, said) in enumerate(zip(*columns, strict=True)):
        yield user_id, blob, events[edges[place] : edges[place + 1]], said


class _Seal:
    """The hash and the counts of the rows that go by, on their way in or out."""

    def __init__(self, spec_digest: str, marks_from: int, offset: int) -> None:
        self._spec_digest, self._marks_from, self._offset = spec_digest, marks_from, offset
        self._hash = hashlib.blake2b(digest_size=16)
        self._num_users, self._watermark, self._last = 0, 0, ""

    def add(self, row: SnapshotRow, blob: bytes) -> None:
        if row.user_id <= self._last:
            raise ValueError(
                f"users of a snapshot must be distinct and in rising order of id, but "
                f"{row.user_id!r} follows {self._last!r}; sort them first"
            )
        ts, event = row.history["ts"], row.history["event"]
        tied = ts[1:] == ts[:-1]
        if (ts[1:] < ts[:-1]).any() or (tied & (event[1:] <= event[:-1])).any():
            raise ValueError(
                f"the history of user {row.user_id!r} is not in rising order of (ts, event)"
            )
        said = b"\n".join(row.said)  # no JSON row has a line break in it
        for part in (row.user_id.encode(), blob, row.history.tobytes(), said):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)
        self._watermark = max(self._watermark, row.state.newest_ms)
        self._num_users += 1
        self._last = row.user_id

    def close(self, graves: Mapping[str, int]) -> SnapshotInfo:
        """What was added, as a whole."""
        info = SnapshotInfo(
            version=VERSION,
            snapshot_id="",
            spec_digest=self._spec_digest,
            watermark=self._watermark,
            marks_from=self._marks_from,
            offset=self._offset,
            num_users=self._num_users,
        )
        self._hash.update(orjson.dumps([asdict(info), graves]))
        return replace(info, snapshot_id=self._hash.hexdigest())
