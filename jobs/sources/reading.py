"""Rows of one Parquet, CSV or JSON lines file, a batch at a time, whatever the file's size.

What is no row of the file's format is told apart with its number and why, and the rest is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.columns import LINE, REASON, parse_lines
from models.mapping import SourceConfig

Open = Callable[[], pa.NativeFile]

_PEEK_LINES = 1000
_MOST_TEXT = 2_000  # characters of a broken row that are kept
_MOST_LINE = 1 << 26  # a longer one is not JSON lines but one JSON text
_BUFFER = 1 << 22  # bytes of each column chunk of a Parquet file that are read at once
_ROW_BYTES = 32  # of CSV, roughly: what a block of so many rows takes


@dataclass(frozen=True)
class Broken:
    """A row that could not even be parsed."""

    number: int
    """Its place in the file, from 0."""
    reason: str
    text: str
    """How it stands in the file; the first 2,000 characters."""


@dataclass(frozen=True)
class Rows:
    """Some rows of one file, as they came."""

    table: pa.Table
    """`(N,)` rows; of CSV and JSON lines all columns are text."""
    numbers: NDArray[np.int64]
    """`(N,)` the place of each in its file, from 0, broken rows counted. A CSV file is counted
    without its header and empty lines, JSON lines with them, so that it is the line's number."""
    broken: tuple[Broken, ...] = ()


def parquet_rows(
    file: pa.NativeFile, *, row_groups: Sequence[int] | None, first_row: int, batch_rows: int
) -> Iterator[Rows]:
    """Rows of some row groups (None: all), decoded a batch at a time.

    Not read ahead and through a buffer per column: a row group of any size takes little memory.
    """
    parquet = pq.ParquetFile(
        file, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
    )
    groups = list(range(parquet.num_row_groups) if row_groups is None else row_groups)
    for batch in parquet.iter_batches(batch_rows, row_groups=groups, use_threads=False):
        numbers = np.arange(first_row, first_row + len(batch))
        first_row += len(batch)
        if len(batch):
            yield Rows(pa.Table.from_batches([batch]), numbers)


def csv_options(config: SourceConfig, names: Sequence[str] = ()) -> dict[str, Any]:
    """Every column as text: to guess types would cost `00123` its zeros and stumble on `85123A`."""
    return {
        "read_options": pacsv.ReadOptions(encoding=config.encoding),
        "parse_options": pacsv.ParseOptions(delimiter=config.delimiter, newlines_in_values=True),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    }


def csv_names(stream: pa.NativeFile, config: SourceConfig) -> list[str]:
    """The header; nothing for a file without a line."""
    reader = _open_csv(stream, config, (), 1 << 20, lambda row: "skip")
    return [] if reader is None else list(reader.schema.names)


def csv_rows(open_file: Open, config: SourceConfig, *, batch_rows: int) -> Iterator[Rows]:
    """Rows of a CSV file; a line with too few or too many columns is broken."""
    with open_file() as stream:
        names = csv_names(stream, config)
    waiting: list[Broken] = []

    def set_aside(row: Any) -> str:
        reason = f"{row.actual_columns} columns instead of {row.expected_columns}"
        waiting.append(Broken(row.number - 2, reason, row.text[:_MOST_TEXT]))  # 1 is the header
        return "skip"

    begin = 0
    with open_file() as stream:
        block = min(max(batch_rows * _ROW_BYTES, 1 << 20), 1 << 24)
        reader = _open_csv(stream, config, names, block, set_aside)
        for batch in reader or ():
            table = pa.Table.from_batches([batch])
            numbers = _numbers(begin, len(table), waiting)
            if len(table):
                begin = int(numbers[-1]) + 1
            told = [row for row in waiting if row.number < begin]
            del waiting[: len(told)]
            yield from _sliced(_decoded(Rows(table, numbers, tuple(told))), batch_rows)
    if waiting:
        nothing = pa.table({name: pa.array([], pa.string()) for name in names})
        yield Rows(nothing, np.zeros(0, np.int64), tuple(waiting))


def _open_csv(
    stream: pa.NativeFile,
    config: SourceConfig,
    names: Sequence[str],
    block_size: int,
    set_aside: Callable[[Any], str],
) -> pacsv.CSVStreamingReader | None:
    """None for a file without a line. Columns come as bytes: text is checked row by row."""
    options = csv_options(config)
    options["read_options"].use_threads = False  # else a broken row has no number
    options["read_options"].block_size = block_size
    options["parse_options"].invalid_row_handler = set_aside
    options["convert_options"].column_types = dict.fromkeys(names, pa.binary())
    try:
        return pacsv.open_csv(stream, **options)
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return None
        raise


def _numbers(begin: int, num: int, broken: Sequence[Broken]) -> NDArray[np.int64]:
    """The first `num` places from `begin` on that are not those of broken rows."""
    places = np.arange(begin, begin + num + len(broken))
    free: NDArray[np.int64] = places[~np.isin(places, [row.number for row in broken])]
    return free[:num]


def _decoded(rows: Rows) -> Rows:
    """Bytes as text; a row with bytes that are no UTF-8 is broken."""
    try:
        return Rows(_as_text(rows.table), rows.numbers, rows.broken)
    except pa.ArrowInvalid:
        pass
    wrong = np.zeros(len(rows.table), bool)
    for column in rows.table.columns:
        wrong |= [value is not None and not _is_text(value) for value in column.to_pylist()]
    told = list(rows.broken)
    for place in np.flatnonzero(wrong).tolist():
        values = [column[place].as_py() or b"" for column in rows.table.columns]
        text = b",".join(values).decode(errors="replace")[:_MOST_TEXT]
        told.append(Broken(int(rows.numbers[place]), "bytes that are no UTF-8", text))
    kept = rows.table.filter(pa.array(~wrong))
    return Rows(_as_text(kept), rows.numbers[~wrong], tuple(sorted(told, key=lambda r: r.number)))


def _as_text(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _sliced(rows: Rows, most: int) -> Iterator[Rows]:
    """The same in parts of at most so many rows; broken rows come with the first part."""
    broken = rows.broken
    for begin in range(0, max(len(rows.table), 1), most):
        part = rows.table.slice(begin, most)
        if len(part) or broken:
            yield Rows(part, rows.numbers[begin : begin + most], broken)
        broken = ()


def line_names(stream: pa.NativeFile, config: SourceConfig) -> list[str]:
    """The keys of the first lines; nothing for a file without a line.

    Raises:
        pa.ArrowInvalid: when not one of them is a JSON object.
    """
    lines = [line for line in islice(_lines(stream, config), _PEEK_LINES) if line.strip()]
    if not lines:
        return []
    parsed = parse_lines(pa.table({LINE: pa.array(map(_printable, lines), pa.string())}))
    names = [name for name in parsed.column_names if name != REASON]
    if not names:
        raise pa.ArrowInvalid("its first lines are no JSON objects")
    return names


def line_rows(
    open_file: Open, config: SourceConfig, *, expected: Sequence[str], batch_rows: int
) -> Iterator[Rows]:
    """Rows of JSON lines, with the expected columns and all others that a batch has."""
    begin = 0
    with open_file() as stream:
        lines = _lines(stream, config)
        while batch := list(islice(lines, batch_rows)):
            kept = [(begin + n, line) for n, line in enumerate(batch) if line.strip()]
            begin += len(batch)
            rows = _parsed(kept, config, expected)
            if len(rows.table) or rows.broken:
                yield rows


def _lines(stream: pa.NativeFile, config: SourceConfig) -> Iterator[str]:
    """Lines as text; bytes that the encoding does not know come as lone surrogates."""
    encoding = "utf-8-sig" if config.encoding.lower() in ("utf-8", "utf8") else config.encoding
    text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="\n")
    for number, line in enumerate(iter(partial(text.readline, _MOST_LINE), "")):
        if len(line) == _MOST_LINE:
            raise pa.ArrowInvalid(f"line {number + 1:,} is longer than {_MOST_LINE:,} characters")
        yield line


def _parsed(lines: list[tuple[int, str]], config: SourceConfig, expected: Sequence[str]) -> Rows:
    told, kept = [], []
    for number, line in lines:
        if _printable(line) is line:
            kept.append((number, line))
        else:
            reason = f"bytes that are no {config.encoding.upper()}"
            told.append(Broken(number, reason, _printable(line).strip()[:_MOST_TEXT]))
    numbers = np.asarray([number for number, _ in kept], np.int64)
    column = pa.array([line for _, line in kept], pa.string())
    parsed = parse_lines(pa.table({LINE: column}), tuple(expected))
    fine = np.asarray(parsed[REASON].is_null())
    for place in np.flatnonzero(~fine).tolist():
        text = kept[place][1].strip()[:_MOST_TEXT]
        told.append(Broken(int(numbers[place]), parsed[REASON][place].as_py(), text))
    table = parsed.drop([REASON]).filter(pa.array(fine))
    return Rows(table, numbers[fine], tuple(sorted(told, key=lambda row: row.number)))


def _printable(line: str) -> str:
    """The line itself, or where it holds lone surrogates, the line without them."""
    if line.isascii():
        return line
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return line
