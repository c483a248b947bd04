"""A snapshot: all users' states in one Parquet file, written by a store or by a batch build.

Rows `(user_id, state, marks, marks_ts)` in order of user id; `state` is bytes of the memory codec,
the other two are the keys and times of the user's recent events. The file's metadata (key `ebb`,
JSON) holds the fields of `SnapshotInfo` and the tombstones.

A store that loads it must not apply its events again. `marks_from` says how: every event of the
snapshot at or after that time has its mark in the rows, and an event before it counts as late.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.memory import State, StateSpec, decode, encode

VERSION = 1
_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("state", pa.binary(), nullable=False),
        pa.field("marks", pa.list_(pa.uint64()), nullable=False),
        pa.field("marks_ts", pa.list_(pa.int64()), nullable=False),
    ]
)
_ROWS = 512  # users held in memory at a time
# Ids and states hardly repeat and nobody searches them by range.
_PARQUET = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}

Tombstones = Mapping[bytes, int]
"""`tombstone_key` of an erased user to `erased_at_ms`."""


class SnapshotRow(NamedTuple):
    """One user. `marks` `(m,)` event keys with their times `marks_ts` `(m,)` in milliseconds."""

    user_id: str
    state: State
    marks: NDArray[np.uint64]
    marks_ts: NDArray[np.int64]


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


def tombstone_key(user_id: str) -> bytes:
    """Sixteen bytes that stand for an erased user where the id itself must not be kept."""
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"ebb-tombstone").digest()


def write_snapshot(
    path: Path | str,
    rows: Iterable[tuple[str, State, NDArray[np.uint64], NDArray[np.int64]]],
    *,
    spec: StateSpec,
    marks_from: int,
    offset: int = 0,
    tombstones: Tombstones | None = None,
) -> SnapshotInfo:
    """Writes a snapshot; the file appears whole or not at all.

    Args:
        rows: `SnapshotRow`s or plain tuples of the same, in rising order of user id.
        marks_from: every event of the states at or after it has its mark in the rows; older marks
            are left out. A batch build gives its newest ts less the dedup horizon, or, if it
            keeps no marks, its newest ts plus 1.
        offset: the store's; 0 for a batch build.
        tombstones: of the users erased so far.

    Raises:
        ValueError: when users are repeated or out of order, or marks and times differ in number.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    seal = _Seal(spec.digest(), marks_from, offset)
    graves = {key.hex(): ts for key, ts in sorted((tombstones or {}).items())}
    prepared = (_recent(SnapshotRow(*row), marks_from) for row in rows)
    try:
        with pq.ParquetWriter(unfinished, _SCHEMA, **_PARQUET) as writer:
            while chunk := list(islice(prepared, _ROWS)):
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
                    for user_id, blob, marks, marks_ts in _from_batch(batch):
                        row = SnapshotRow(user_id, decode(blob, self._spec), marks, marks_ts)
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


def _recent(row: SnapshotRow, marks_from: int) -> SnapshotRow:
    """The row with its recent marks only, by key: equal sets of marks are equal bytes."""
    if len(row.marks) != len(row.marks_ts):
        raise ValueError(
            f"user {row.user_id!r} has {len(row.marks)} marks and {len(row.marks_ts)} times"
        )
    recent = row.marks_ts >= marks_from
    marks, times = row.marks[recent], row.marks_ts[recent]
    order = np.argsort(marks)
    return row._replace(marks=marks[order], marks_ts=times[order])


def _to_batch(rows: list[SnapshotRow], blobs: list[bytes]) -> pa.RecordBatch:
    edges = np.cumsum([0, *(len(row.marks) for row in rows)], dtype=np.int32)
    lists = [
        pa.ListArray.from_arrays(edges, np.concatenate(columns))
        for columns in ([row.marks for row in rows], [row.marks_ts for row in rows])
    ]
    users = pa.array([row.user_id for row in rows])
    return pa.RecordBatch.from_arrays([users, pa.array(blobs), *lists], schema=_SCHEMA)


def _from_batch(
    batch: pa.RecordBatch,
) -> Iterator[tuple[str, bytes, NDArray[np.uint64], NDArray[np.int64]]]:
    marks, times = (column.flatten().to_numpy() for column in (batch["marks"], batch["marks_ts"]))
    edges = np.append(0, np.cumsum(batch["marks"].value_lengths().to_numpy()))
    users, blobs = batch["user_id"].to_pylist(), batch["state"].to_pylist()
    for place, (user_id, blob) in enumerate(zip(users, blobs, strict=True)):
        low, high = edges[place], edges[place + 1]
        yield user_id, blob, marks[low:high], times[low:high]


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
        for part in (row.user_id.encode(), blob, row.marks.tobytes(), row.marks_ts.tobytes()):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)
        if row.state:
            self._watermark = max(self._watermark, int(row.state.ring["ts"][-1]))
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
