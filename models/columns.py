"""Columns of unknown origin as text, numbers and times. What cannot be read becomes null.

A CSV file says `"6"` where Parquet says `6` and JSON lines perhaps `6.0`: all are `6` here, so the
same rows give the same events whatever file they come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from models.events import key64
from models.keys import keys_of

TimeUnit = Literal["s", "ms", "us"]
TIME = pl.Datetime("ms", "UTC")
LINE = "_line"
"""The one column of a block of JSON lines, before `parse_lines`."""
REASON = "_reason"
"""Why a source (an adapter, a broken line) turns a row away; null where it does not."""

_PER_MS = {"s": 0.001, "ms": 1.0, "us": 1000.0}
_MAX_MS = 8.64e15  # a hundred million days: beyond it a calendar overflows
_WITH_ZONE = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
_WITHOUT_ZONE = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def as_text(column: pl.Series) -> pl.Series:
    """Values as people write them: whole floats without `.0`, NaN as null, times as ISO 8601."""
    kind = column.dtype
    if kind == pl.String:
        return column
    if kind.is_float():
        column = column.cast(pl.Float64).fill_nan(None)
        whole = (column == column.floor()) & (column.abs() < 2.0**53)
        digits = column.set(~whole.fill_null(False), None).cast(pl.Int64).cast(pl.String)
        return digits.zip_with(whole.fill_null(False), column.cast(pl.String))
    if kind == pl.Binary:
        values = [None if v is None else v.decode(errors="replace") for v in column.to_list()]
        return pl.Series(column.name, values, pl.String)
    if kind.is_nested():
        frame = pl.DataFrame({"value": column})
        coded = frame.select(pl.struct("value").struct.json_encode()).to_series()
        return coded.zip_with(column.is_not_null(), pl.Series([None], dtype=pl.String))
    return column.cast(pl.String)


def as_number(column: pl.Series) -> pl.Series:
    """Values as float64; a text that is no number is null."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        column = as_text(column)
    return column.cast(pl.Float64, strict=False)


def as_time(column: pl.Series, *, unit: TimeUnit | None, form: str | None = None) -> pl.Series:
    """Values as milliseconds UTC; times without a zone are taken as UTC.

    Args:
        column: times, dates, ISO 8601 text, or numbers since 1970.
        unit: of the numbers. With a unit, text may hold numbers too.
        form: `strptime` format of the text, instead of ISO 8601.

    Raises:
        ValueError: for numbers without a unit.
    """
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        return _in_utc(column.cast(pl.Datetime("ms", getattr(column.dtype, "time_zone", None))))
    if column.dtype.is_numeric():
        return _from_number(column, unit)
    if column.dtype != pl.String:
        return pl.Series(column.name, [None], TIME).new_from_index(0, len(column))
    parsed = _from_text(column, form)
    if unit is not None:
        return parsed.zip_with(parsed.is_not_null(), _from_number(as_number(column), unit))
    if parsed.null_count() == len(column) and as_number(column).is_not_null().any():
        raise ValueError(_NO_UNIT)
    return parsed


_NO_UNIT = "times are numbers; set `source.ts_unit` to s, ms or us since 1970"


def _from_number(column: pl.Series, unit: TimeUnit | None) -> pl.Series:
    if unit is None:
        raise ValueError(_NO_UNIT)
    number = column.cast(pl.Float64).fill_nan(None) / _PER_MS[unit]
    fits = (number.abs() <= _MAX_MS).fill_null(False)
    return number.set(~fits, None).floor().cast(pl.Int64).cast(TIME)


def _from_text(column: pl.Series, form: str | None) -> pl.Series:
    text = column.str.strip_chars()
    forms = (form,) if form is not None else (*_WITH_ZONE, *_WITHOUT_ZONE)
    if form is None:
        text = text.str.replace(r"^(.{10})T", "$1 ").str.replace(r"[Zz]$", "+00:00")
    found = pl.Series(column.name, [None], TIME).new_from_index(0, len(column))
    for one in forms:
        zone = "UTC" if "z" in one else None
        parsed = text.str.to_datetime(one, strict=False, time_unit="ms", time_zone=zone)
        found = found.zip_with(found.is_not_null(), _in_utc(parsed))
        if not found.null_count():
            break
    return found


def _in_utc(column: pl.Series) -> pl.Series:
    naive = getattr(column.dtype, "time_zone", None) is None
    return column.dt.replace_time_zone("UTC") if naive else column.dt.convert_time_zone("UTC")


def row_text(table: pa.Table) -> pl.Series:
    """`(N,)` each row as one JSON object of texts; a row of JSON lines is its own line."""
    frame = pl.DataFrame(table)
    if frame.columns == [LINE]:
        return as_text(frame[LINE])
    texts = pl.DataFrame([as_text(column).alias(column.name) for column in frame])
    return texts.select(pl.struct(pl.all()).struct.json_encode()).to_series()


def content_ids(table: pa.Table, instead: Mapping[str, pl.Series]) -> pl.Series:
    """`(N,)` a 64-bit number of each row's content, as text: equal rows have equal ids.

    The sum of a hash of each column's name and value. Neither the order of the columns matters nor
    a column that is not there, where others have a null.

    Args:
        table: the source's rows.
        instead: columns to take in place of the source's own, such as parsed times, so that a way
            of writing does not matter.
    """
    frame = pl.DataFrame(table).drop(REASON, strict=False).with_columns(**instead)
    total = np.zeros(len(frame), np.uint64)
    for column in frame:
        keys = keys_of(_plain_number(column))
        named = _mixed(np.full(1, key64(column.name), np.uint64))
        total += np.where(keys == 0, keys, _mixed(keys ^ named))
    return pl.Series("event_id", total).cast(pl.String)


def _plain_number(column: pl.Series) -> pl.Series:
    """As text; `6.00` in a CSV file is the 6 of a Parquet file."""
    text = as_text(column)
    if column.dtype != pl.String:
        return text
    return (
        text.str.replace(r"^(-?\d+)\.0+$", "$1")
        if text.str.contains(".0", literal=True).any()
        else text
    )


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): every bit depends on every bit."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def parse_lines(lines: pa.Table, expected: tuple[str, ...] = ()) -> pa.Table:
    """A block of JSON lines as a table of texts, with a `REASON` where a line is no JSON object.

    Args:
        lines: one text column, `LINE`.
        expected: columns to have even when no line of the block names them.
    """
    rows: list[dict[str, object] | None] = [_object(line) for line in lines[LINE].to_pylist()]
    names = dict.fromkeys([*expected, *(name for row in rows if row for name in row)])
    columns = {
        name: pa.array([_json_text(row.get(name)) if row else None for row in rows], pa.string())
        for name in names
    }
    reasons = [None if row is not None else "not a JSON object" for row in rows]
    return pa.table({**columns, REASON: pa.array(reasons, pa.string())})


def _object(line: str) -> dict[str, object] | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None  # one bad line is that row's fault and is told as its reason
    return found if isinstance(found, dict) else None


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**53:
        value = int(value)
    return orjson.dumps(value).decode()
