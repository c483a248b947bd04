"""Some rows from all over a source, read in seconds whatever its size."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa

from jobs.sources import Chunk, Rows, Source, chunks, read
from jobs.sources.reading import csv_rows, line_rows
from models.mapping import SourceConfig

T = TypeVar("T")
_PLACES = 16  # of the source that are looked at
_LEAST_BYTES = 20  # of a row of text
_MOST_FOOTERS = 256  # files that are asked for their number of rows
_TAIL_BYTES = 1 << 20  # the end of a long text file


@dataclass(frozen=True)
class Part:
    """Rows that follow each other in one file."""

    file: str
    """Its path below what all files have in common."""
    rows: Rows


@dataclass(frozen=True)
class Sample:
    """Parts in the order of files and rows."""

    parts: tuple[Part, ...]
    is_whole: bool
    """Whether it holds every row of the source."""
    num_known: int | None
    """Rows of the whole source, where its files tell without being read."""

    @property
    def num_rows(self) -> int:
        """Rows that were read, broken ones included."""
        return sum(len(part.rows.table) + len(part.rows.broken) for part in self.parts)


def sample(source: Source, config: SourceConfig, most_rows: int) -> Sample:
    """At most so many rows: the first of up to 16 places (files, row groups) far apart.

    Of a long CSV or JSON lines file that is not packed, its end is looked at too.

    Raises:
        ValueError: naming a file that cannot be read.
    """
    full = [file for file in source.files if file.size]
    is_small = sum(file.size for file in full) <= most_rows * _LEAST_BYTES
    few = len(full) <= _MOST_FOOTERS and source.format == "parquet"
    files = full if is_small or few else _spread(full)
    here = replace(source, files=tuple(files))
    found = chunks(here, config, target_rows=max(most_rows // _PLACES, 1))
    told = [chunk.num_rows for chunk in found]
    known = None if None in told else sum(n or 0 for n in told)
    fits = is_small if known is None else known <= most_rows
    places = found if fits else _spread(found)
    parts: list[Part] = []
    left, is_cut = most_rows, False
    for num, chunk in enumerate(places):
        quota = max(left if fits else left // (len(places) - num), 1)
        name = _short(source, chunk.file.path)
        for rows in _head(read(here, chunk, config, min(quota, 65_536)), quota):
            parts.append(Part(name, rows))
            quota -= len(rows.table)
            left -= len(rows.table)
        if quota <= 0 and _has_more(chunk, parts[-1]):
            is_cut = True
            parts += [Part(name, rows) for rows in _tail(here, chunk, config)]
    return Sample(
        parts=tuple(parts),
        is_whole=len(files) == len(full) and len(places) == len(found) and not is_cut,
        num_known=known if len(files) == len(full) else None,
    )


def _spread(many: list[T]) -> list[T]:
    """At most 16 of them, the first and the last among them."""
    if len(many) <= _PLACES:
        return many
    return [many[place] for place in np.linspace(0, len(many) - 1, _PLACES).round().astype(int)]


def _head(batches: Iterator[Rows], most: int) -> Iterator[Rows]:
    for rows in batches:
        if len(rows.table) > most:
            last = rows.numbers[most - 1]
            broken = tuple(row for row in rows.broken if row.number < last)
            rows = Rows(rows.table.slice(0, most), rows.numbers[:most], broken)
        most -= len(rows.table)
        yield rows
        if most <= 0:
            return


def _has_more(chunk: Chunk, last: Part) -> bool:
    """Whether rows of the chunk may follow; of a text file nobody knows before its end."""
    if chunk.num_rows is None:
        return True
    return int(last.rows.numbers[-1]) + 1 < chunk.first_row + chunk.num_rows


def _tail(source: Source, chunk: Chunk, config: SourceConfig) -> Iterator[Rows]:
    """The last rows of a long text file, without their places: where they begin is guessed."""
    path = chunk.file.path
    packed = source.format == "parquet" or path.endswith(".gz")
    if packed or chunk.file.size < 4 * _TAIL_BYTES or config.encoding.lower().startswith("utf-16"):
        return
    with source.filesystem.open_input_file(path) as file:
        header = file.read(_TAIL_BYTES).split(b"\n", 1)[0] + b"\n"
        file.seek(chunk.file.size - _TAIL_BYTES)
        end = file.read().split(b"\n", 1)[-1]
    content = pa.py_buffer(header + end if source.format == "csv" else end)
    if source.format == "csv":
        batches = csv_rows(lambda: pa.BufferReader(content), config, batch_rows=1 << 20)
    else:
        batches = line_rows(
            lambda: pa.BufferReader(content), config, expected=source.names, batch_rows=1 << 20
        )
    for rows in batches:
        yield Rows(rows.table, np.full(len(rows.table), -1))


def _short(source: Source, path: str) -> str:
    above = posixpath.commonpath([posixpath.dirname(file.path) for file in source.files])
    return posixpath.relpath(path, above)
