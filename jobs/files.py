"""Files of prepared data: each is whole or not there, and Arrow files are read where they lie."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class NoSpaceError(ValueError):
    """A disk is full. What was written whole stays, so the same command goes on from there."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when all went well, and nothing when it did not.

    Raises:
        NoSpaceError: when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
        fresh.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoSpaceError(
            f"{path}: no space left to write it ({error.strerror}); make room and run the same "
            "command again, it goes on where it was"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def write_table(table: pa.Table, path: Path) -> None:
    """As Parquet."""
    with whole(path) as fresh:
        pq.write_table(table, fresh, compression="zstd")


def write_arrow(table: pa.Table, path: Path) -> None:
    """As an Arrow file that can be read where it lies: not compressed, in one batch."""
    with new_arrow(path, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(len(table), 1))


@contextmanager
def new_arrow(
    path: Path, schema: pa.Schema, compression: str | None = None
) -> Iterator[pa.RecordBatchFileWriter]:
    """A new Arrow file to write batches to."""
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        whole(path) as fresh,
        pa.OSFile(str(fresh), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        yield writer


def open_arrow(path: Path) -> pa.RecordBatchFileReader:
    """An Arrow file mapped into memory: only what is looked at is read."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def write_json(found: Mapping[str, Any], path: Path) -> None:
    """As JSON."""
    with whole(path) as fresh:
        fresh.write_text(json.dumps(found, indent=2) + "\n")


def once(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What the JSON file says; where there is none yet, `make` says it.

    The file is the mark that all else `make` writes is written.
    """
    if not path.is_file():
        write_json(make(), path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@contextmanager
def alone(path: Path, taken: str) -> Iterator[None]:
    """Holds a lock file as long as the block lasts.

    Raises:
        ValueError: saying `taken`, when another process holds it.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(taken) from error
        yield
