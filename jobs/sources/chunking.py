"""Where events are read from: the files behind a path, in chunks, a batch of rows at a time."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

import jobs.datasets
from jobs.sources.locating import File, Source, distinct
from jobs.sources.reading import Rows, csv_rows, line_rows, parquet_rows
from models.mapping import SourceConfig

Adapter = Callable[[pa.Table], pa.Table]
_OPEN_AT_ONCE = 8  # footers of Parquet files; far away, each is a round trip


@dataclass(frozen=True)
class Chunk:
    """What one task reads: a file or some row groups of it."""

    file: File
    row_groups: tuple[int, ...] | None = None
    """None: the whole file."""
    first_row: int = 0
    num_rows: int | None = None
    """None: not known before it is read."""

    @property
    def id(self) -> str:
        """Sixteen hex digits: the same for a file that nobody touched, in any later run."""
        file = self.file
        told = (file.path, file.size, file.modified_ns, file.keys, self.row_groups)
        return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()


def chunks(source: Source, config: SourceConfig, target_rows: int = 1_000_000) -> list[Chunk]:
    """What tasks are to read, in the order of the files; empty files are left out.

    Args:
        target_rows: row groups of a Parquet file go together up to so many rows. CSV and JSON lines
            are one chunk each: where a row begins is known only from the start.

    Raises:
        ValueError: naming a Parquet file that cannot be read, or is not what it was.
    """
    files = [file for file in source.files if file.size]
    if source.format != "parquet":
        return [Chunk(file) for file in files]
    with ThreadPoolExecutor(_OPEN_AT_ONCE) as pool:
        sizes = list(pool.map(lambda file: _group_sizes(source, file), files))
    return [
        c for file, rows in zip(files, sizes, strict=True) for c in _cut(file, rows, target_rows)
    ]


def _group_sizes(source: Source, file: File) -> list[int]:
    check_untouched(source, file)
    try:
        with source.filesystem.open_input_file(file.path) as opened:
            told = pq.read_metadata(opened)
            return [told.row_group(group).num_rows for group in range(told.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(source, file, error) from error


def _cut(file: File, sizes: list[int], target_rows: int) -> Iterator[Chunk]:
    groups: list[int] = []
    first = num = 0
    for group, size in enumerate(sizes):
        if groups and num + size > target_rows:
            yield Chunk(file, tuple(groups), first, num)
            groups, first, num = [], first + num, 0
        groups.append(group)
        num += size
    if num:
        yield Chunk(file, tuple(groups), first, num)


def read(
    source: Source, chunk: Chunk, config: SourceConfig, batch_rows: int = 262_144
) -> Iterator[Rows]:
    """The rows of a chunk, in order, at most `batch_rows` at a time, keys of partitions appended.

    Raises:
        ValueError: naming the file, when it cannot be read, is gone, or is not what it was when
            it was found: then rows that came already may be wrong too.
    """
    check_untouched(source, chunk.file)
    try:
        for rows in _rows(source, chunk, config, batch_rows):
            yield Rows(_with_keys(rows.table, source, chunk.file), rows.numbers, rows.broken)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        check_untouched(source, chunk.file)  # that would be why
        raise _unreadable(source, chunk.file, error) from error
    check_untouched(source, chunk.file)


def _rows(source: Source, chunk: Chunk, config: SourceConfig, batch_rows: int) -> Iterator[Rows]:
    path, filesystem = chunk.file.path, source.filesystem
    if not chunk.file.size:
        return
    if source.format == "parquet":
        with filesystem.open_input_file(path) as file:
            yield from parquet_rows(
                file,
                row_groups=chunk.row_groups,
                first_row=chunk.first_row,
                batch_rows=batch_rows,
            )
    elif source.format == "csv":
        yield from csv_rows(
            lambda: filesystem.open_input_stream(path), config, batch_rows=batch_rows
        )
    else:
        yield from line_rows(
            lambda: filesystem.open_input_stream(path),
            config,
            expected=[name for name in source.names if name not in source.keys],
            batch_rows=batch_rows,
        )


def _with_keys(table: pa.Table, source: Source, file: File) -> pa.Table:
    """A file's own column comes before a key of the same name."""
    distinct(table.column_names)
    values = dict(file.keys)
    for key in source.keys:
        if key not in table.column_names:
            value = pa.scalar(values.get(key), pa.string())
            table = table.append_column(key, pa.repeat(value, len(table)))
    return table


def check_untouched(source: Source, file: File) -> None:
    """Raises ValueError when a file is gone, or not what it was when it was found."""
    info = source.filesystem.get_file_info(file.path)
    if info.type == pafs.FileType.NotFound:
        raise ValueError(f"{file.path} is gone since the source was looked at; run again")
    if (info.size or 0, info.mtime_ns or 0) != (file.size, file.modified_ns):
        raise ValueError(
            f"{file.path} changed since the source was looked at; run again when nobody writes to "
            "it (write a file beside its place and rename it when it is whole)"
        )


def _unreadable(source: Source, file: File, error: Exception) -> ValueError:
    said = str(error).split("\n", 1)[0][:300]
    if "straddl" in said:
        said += "; is a quote opened that nobody closes?"
    return ValueError(
        f"{file.path} is no {source.format} that can be read: {said}; mend it or take it away"
    )


def whole(source: Source, config: SourceConfig) -> pa.Table:
    """All rows as one table in this process: for item tables.

    Raises:
        ValueError: as `read`; also for a broken row, which nobody would miss otherwise.
    """
    tables = []
    for chunk in chunks(source, config):
        for rows in read(source, chunk, config):
            if rows.broken:
                first = rows.broken[0]
                raise ValueError(
                    f"{chunk.file.path}, row {first.number + 1:,}: {first.reason}: {first.text!r}"
                )
            tables.append(rows.table)
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in source.names})
    return pa.concat_tables(tables, promote_options="permissive")


def adapter(name: str | None) -> Adapter | None:
    """The `adapt` of a module of `jobs/datasets`.

    Raises:
        ValueError: when there is no such module, or it has no `adapt`.
    """
    if name is None:
        return None
    path = f"jobs.datasets.{name}"
    if importlib.util.find_spec(path) is None:
        here = sorted(m.name for m in pkgutil.iter_modules(jobs.datasets.__path__))
        raise ValueError(f"source.adapter: no module {path}; there are {', '.join(here)}")
    found = getattr(importlib.import_module(path), "adapt", None)
    if found is None:
        raise ValueError(f"source.adapter: {path} has no function `adapt(table) -> table`")
    return cast(Adapter, found)
