"""From a source's columns to those of the event contract.

`map_rows` renames and converts, `clean` tells good rows from wrong ones. Both are pure and look at
one block of rows at a time, so they run alike on a laptop's file and on a cluster's blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BeforeValidator, Field, field_validator, model_validator

from models.columns import (
    REASON,
    TimeUnit,
    as_number,
    as_text,
    as_time,
    content_ids,
    row_text,
)
from models.config import Config, Duration
from models.events import ACTIONS, REQUIRED, SCHEMA, validate

ITEM, CONTEXT = "item_", "context_"
_FIELD = r"[a-z][a-z0-9_]*"
_TIMES = ("ts", "arrived_at", "valid_until")
_NUMBERS = {"position": pl.Int32, "value": pl.Float32, "propensity": pl.Float32}


def _text_keys(value: object) -> object:
    """YAML reads `4: like` as a number; source values are compared as text."""
    return {_as_key(k): v for k, v in value.items()} if isinstance(value, dict) else value


def _as_key(key: object) -> object:
    return str(key).lower() if isinstance(key, bool) else str(key)


class SourceConfig(Config):
    """Where the events are, and which of their columns means what."""

    path: str
    """A file, a folder or a pattern such as `events/*.parquet`: local, or any URI that pyarrow
    knows (`s3://`, `gs://`, `hdfs://`, ...). Relative paths start at the working directory."""
    format: str | None = Field(None, pattern="^(parquet|csv|jsonl)$")
    """`parquet`, `csv` or `jsonl`; by default what the file names end in."""
    adapter: str | None = Field(None, pattern=f"^{_FIELD}$")
    """A module of `jobs/datasets` with `adapt(table) -> table`, for what a mapping cannot say."""
    columns: dict[str, str | None] = Field(default_factory=dict)
    """Contract column to source column. A source column that already has a contract name is taken
    as it is; null leaves it out. `context_<name>` brings in context for requests."""
    ts_unit: TimeUnit | None = None
    """Unit of times that are numbers since 1970."""
    ts_format: str | None = None
    """`strptime` format of times that are text but not ISO 8601, such as `%m/%d/%Y %H:%M`."""
    action: str | None = None
    """The action of every row, where the source has no such column."""
    actions: Annotated[dict[str, str], BeforeValidator(_text_keys)] = Field(default_factory=dict)
    """Source value to action; a value not named here must be an action's name already."""
    delay: Duration = Field(0, ge=0)
    """Arrival is `ts` plus this, where `arrived_at` is not given."""
    max_skew: Duration = Field(300_000, ge=0)
    """How far in the future a time may lie."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    encoding: str = "utf-8"
    """Of CSV and JSON lines."""

    @field_validator("columns")
    @classmethod
    def _contract(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        known = re.compile(f"{CONTEXT}{_FIELD}")
        unknown = [n for n in columns if n not in SCHEMA.names and not known.fullmatch(n)]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no column of the event contract; there are "
                f"{', '.join(SCHEMA.names)} and {CONTEXT}<name>"
            )
        return columns

    @model_validator(mode="after")
    def _vocabulary(self) -> SourceConfig:
        named = [*self.actions.values(), *([self.action] if self.action else [])]
        unknown = sorted(set(named) - set(ACTIONS))
        if unknown:
            raise ValueError(
                f"action {', '.join(unknown)} is not in the vocabulary: {', '.join(ACTIONS)}"
            )
        if self.action and (self.actions or self.columns.get("action")):
            raise ValueError("`action` is for every row; it excludes `actions` and columns.action")
        return self

    def __hash__(self) -> int:  # a dict has none of its own
        return hash(self.model_dump_json())


class ItemsConfig(Config):
    """Where the fields of items come from: a table of their own, or the event rows."""

    path: str | None = None
    """A table with a row per item (Parquet, CSV or JSON lines). None: the columns of the item's
    first event."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Field to column. `text` is what search reads; `item_id` and `first_seen` (a time) are for a
    table of its own; other names are yours, and `catalogue` says what they are."""

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in columns if not re.fullmatch(_FIELD, name)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: field names are lower-case words")
        return columns

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the item fields, `text` included."""
        return tuple(name for name in self.columns if name not in ("item_id", "first_seen"))


class PrepareConfig(Config):
    """How the job runs; nothing here changes what it writes."""

    num_partitions: int | None = Field(None, ge=1)
    """Parts that users are spread over; one is in a worker's memory at a time. None: one for each
    million events of the first run, and at least 4."""
    max_generations: int = Field(16, ge=1)
    """New files are added beside what is prepared; every so many runs all is written together."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """A larger share of wrong rows stops the job: it is the mapping that is wrong, then."""


def sources(
    names: Sequence[str], *, source: SourceConfig, items: ItemsConfig, context: Sequence[str] = ()
) -> dict[str, str]:
    """Which source column feeds each column of `map_rows`.

    Args:
        names: the columns that are there.
        context: the context fields that requests want.

    Raises:
        ValueError: naming the config key, the column that is missing, and what is there.
    """
    wanted: dict[str, tuple[str, str | None]] = {}
    for name in (*SCHEMA.names, *(CONTEXT + field for field in context)):
        wanted[name] = (f"source.columns.{name}", source.columns.get(name, name))
    if items.path is None:
        for field in items.fields:
            wanted[ITEM + field] = (f"items.columns.{field}", items.columns[field])
    if source.adapter:
        kept = (n for n in names if n.startswith(ITEM) and n not in wanted)
        wanted |= {name: ("", name) for name in kept}
    contract = {*SCHEMA.names} - {*REQUIRED} | {"event_id"}
    needed = wanted.keys() - contract
    if source.action:
        wanted.pop("action")
    found: dict[str, str] = {}
    for name, (key, column) in wanted.items():
        if column is not None and column in names:
            found[name] = column
        elif column is not None and (name in source.columns or name in needed):
            raise ValueError(
                f"{key}: there is no column {column!r}; the source has {', '.join(names)}"
            )
    return found


def map_rows(
    table: pa.Table, *, source: SourceConfig, items: ItemsConfig, context: Sequence[str] = ()
) -> pa.Table:
    """A raw table in contract columns, row for row.

    Ids become text, times UTC milliseconds (unreadable ones null). Without an event id, its place
    takes a hash of the row, so that exact duplicates share it.

    Returns:
        Contract columns that the source has, text columns `item_<field>` and `context_<field>`,
        and `REASON`: why the source itself turns a row away, else null.

    Raises:
        ValueError: for a column that is missing, or numbers as times without a unit.
    """
    names = [name for name in table.column_names if name != REASON]
    found = sources(names, source=source, items=items, context=context)
    frame = pl.DataFrame(table)
    columns: dict[str, pl.Series] = {}
    reason = as_text(frame[REASON]) if REASON in frame else _nothing(len(frame))
    for name, column in found.items():
        raw = frame[column]
        if name in _TIMES:
            columns[name] = _time(raw, name, source)
        elif name in _NUMBERS:
            columns[name] = _number(raw, name)
        else:
            columns[name] = as_text(raw)
        # A required time speaks for itself; anything else that was lost is told here.
        if name in _NUMBERS or name in ("arrived_at", "valid_until"):
            lost = raw.is_not_null() & columns[name].is_null()
            reason = _where(lost & reason.is_null(), f"{name} cannot be read", reason)
    columns["action"] = _actions(columns.get("action"), source, len(frame))
    if "event_id" not in columns:
        read = {found[name]: columns[name] for name in _TIMES if name in found}
        columns["event_id"] = content_ids(table, read)
    ordered = [n for n in (*SCHEMA.names, *found) if n in columns]
    mapped = pl.DataFrame([columns[n].alias(n) for n in dict.fromkeys(ordered)])
    return _plain(mapped.with_columns(reason.alias(REASON)))


def _time(raw: pl.Series, name: str, source: SourceConfig) -> pl.Series:
    try:
        return as_time(raw, unit=source.ts_unit, form=source.ts_format)
    except ValueError as error:
        raise ValueError(f"source.columns.{name} (column {raw.name!r}): {error}") from error


def _number(raw: pl.Series, name: str) -> pl.Series:
    return as_number(raw).cast(_NUMBERS[name], strict=False)


def _actions(column: pl.Series | None, source: SourceConfig, rows: int) -> pl.Series:
    if column is None:
        return pl.Series("action", [source.action], pl.String).new_from_index(0, rows)
    return column.replace(source.actions) if source.actions else column


def _nothing(rows: int) -> pl.Series:
    return pl.Series(REASON, [None], pl.String).new_from_index(0, rows)


def _where(mask: pl.Series, text: str, other: pl.Series) -> pl.Series:
    return pl.Series([text]).new_from_index(0, len(mask)).zip_with(mask, other)


def _plain(frame: pl.DataFrame) -> pa.Table:
    """Arrow with ordinary strings and millisecond times."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    kinds = [
        pa.field(f.name, pa.string() if pa.types.is_large_string(f.type) else f.type)
        for f in table.schema
    ]
    return table.cast(pa.schema(kinds))


def clean(raw: pa.Table, mapped: pa.Table, *, source: SourceConfig, now_ms: int) -> pa.Table:
    """Good rows and wrong ones in one table, as many as came in.

    Args:
        raw: the rows as they came.
        mapped: the same rows through `map_rows`.
        now_ms: the present, for "in the future".

    Returns:
        Good rows first, then wrong ones. Contract, `item_` and `context_` columns, filled in good
        rows; `reason`, `row` (the raw row as JSON text) and `place` (which of the rows given),
        filled in wrong ones.
    """
    fine = np.asarray(mapped[REASON].is_null())
    kept = np.flatnonzero(fine)
    checked = validate(
        mapped if len(kept) == len(mapped) else mapped.take(kept),
        now_ms=now_ms,
        max_skew_ms=source.max_skew,
        delay_ms=source.delay,
    )
    refused = np.flatnonzero(~fine)
    wrong = np.concatenate([refused, kept[checked.rejected_rows]])
    extras = [n for n in mapped.column_names if n not in SCHEMA.names and n != REASON]
    good = checked.good
    taken = np.delete(kept, checked.rejected_rows)
    for name in extras:
        good = good.append_column(
            name, mapped[name] if len(good) == len(mapped) else mapped[name].take(taken)
        )
    for name, kind in _WRONG:
        good = good.append_column(name, pa.nulls(len(good), kind))
    if not len(wrong):
        return good
    reasons = [*mapped[REASON].take(refused).to_pylist(), *checked.rejected["reason"].to_pylist()]
    rows = row_text(raw.take(wrong)).to_arrow().cast(pa.string())
    bad = pa.table({"reason": pa.array(reasons, pa.string()), "row": rows, "place": wrong})
    both = pa.concat_tables([good, bad], promote_options="default")
    assert len(both) == len(raw), "a row was lost or invented"
    return both


_WRONG = (("reason", pa.string()), ("row", pa.string()), ("place", pa.int64()))
