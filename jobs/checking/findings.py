"""The dry run of prepare: what a mapping makes of some rows, and what is wrong with it.

Nothing is written and no Ray is started; `jobs.checking.showing` prints what was found.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from jobs.checking import advice
from jobs.checking.advice import Problem
from jobs.checking.sampling import Part, Sample, sample
from jobs.preparing.cleaning import mapped_rows
from jobs.sources import Source, adapter, locate, whole
from models import leave_one_out
from models.columns import REASON, as_text
from models.items import catalogue_table, first_rows
from models.mapping import ItemsConfig, SourceConfig, clean, sources
from models.requests import SPLITS

if TYPE_CHECKING:
    from configs.load import Document

_ROWS_SHOWN = 3
_TIMES = ("ts", "arrived_at", "valid_until")
_LARGE_TABLE = 256 << 20  # bytes of an item table that is not read for a check


@dataclass(frozen=True)
class Column:
    """One column, of the source or of the contract."""

    name: str
    type: str
    about: str
    """What it feeds, or what it comes from."""
    values: tuple[str, ...]
    """Of the first rows."""


@dataclass(frozen=True)
class Wrong:
    """Rows that would be set aside for one reason."""

    reason: str
    num: int
    origin: str
    """File and number of the first of them."""
    row: str


@dataclass(frozen=True)
class Split:
    """What of the sample falls into one split."""

    name: str
    days: int
    events: int
    labelled: int
    """Events after the warm-up with an action that is a label."""


@dataclass(frozen=True)
class Findings:
    """All that a check found; figures are of the rows looked at."""

    where: str
    num_rows: int
    num_known: int | None
    """Rows of the whole source, where its files tell."""
    is_whole: bool
    raw: tuple[Column, ...]
    events: tuple[Column, ...] = ()
    actions: dict[str, int] = field(default_factory=dict)
    first: str = ""
    last: str = ""
    users: int = 0
    items: int = 0
    repeated_by: str = ""
    """What tells an event from another."""
    repeated: int = 0
    differing: int = 0
    """Of them, those that differ from the first in time, item or action."""
    late: int | None = None
    """Events that arrived after a younger one of the same user; None: nothing says when."""
    unordered: int = 0
    """Events that stand after a younger one in their file."""
    wrong: tuple[Wrong, ...] = ()
    splits: tuple[Split, ...] = ()
    problems: tuple[Problem, ...] = ()
    is_guess: bool = False
    """Whether figures are those of a mended mapping: as the problems say."""
    most_wrong: float = 1.0
    """`prepare.max_quarantine_share`."""

    @property
    def num_wrong(self) -> int:
        """Rows that would be set aside."""
        return sum(wrong.num for wrong in self.wrong)

    @property
    def num_good(self) -> int:
        """Rows that are events, repeated ones included."""
        return sum(self.actions.values())

    @property
    def passes(self) -> bool:
        """Whether prepare would go on with such rows."""
        stopped = any(problem.stops for problem in self.problems)
        return bool(
            self.num_good and not stopped and self.num_wrong <= self.most_wrong * self.num_rows
        )


def check(document: Document, *, most_rows: int = 200_000, now_ms: int | None = None) -> Findings:
    """Looks at some rows of the source, as prepare would.

    Where the mapping is wrong and a guess is at hand, it goes on with the guess, so that one run
    tells everything; the problem is told all the same, and `passes` is false.

    Raises:
        ValueError: when there is no source, or a file of it cannot be read.
    """
    source = locate(document.source.path, document.source)
    seen = sample(source, document.source, most_rows)
    problems, config = _mended(source, seen, document)
    empty = Findings(
        where=f"{len(source.files):,} {source.format} file(s), "
        f"{sum(file.size for file in source.files) / 1e6:,.1f} MB, at {document.source.path}",
        num_rows=seen.num_rows,
        num_known=seen.num_known,
        is_whole=seen.is_whole,
        raw=_raw_columns(seen, {}),
        most_wrong=document.prepare.max_quarantine_share,
        problems=tuple(problems),
        is_guess=config != document.source,
    )
    if not seen.num_rows:
        return empty
    try:
        done = _cleaned(seen, document, config, now_ms or time.time_ns() // 1_000_000)
        feeds = _feeds(source, seen, document, config)
    except ValueError as error:
        return replace(empty, problems=(*problems, Problem(str(error), "", stops=True)))
    good = _good(done)
    found = replace(
        empty,
        raw=_raw_columns(seen, feeds),
        events=_event_columns(done[0], feeds),
        wrong=_wrong(seen, done),
        **_counted(good, feeds),
    )
    if not len(good):
        return replace(found, problems=tuple(problems))
    splits, told = _split(good, document)
    problems += [*told, *_catalogue_problems(good, document)]
    if not document.source.adapter:
        problems += _unused(source, document, feeds)
    return replace(found, splits=splits, problems=tuple(problems))


def _mended(source: Source, seen: Sample, document: Document) -> tuple[list[Problem], SourceConfig]:
    """What is wrong with the columns and times of the mapping, and the mapping with our guesses."""
    if document.source.adapter:
        return [], document.source
    problems, config = advice.columns(source.names, document.source)
    if any(problem.what.startswith("action:") for problem in problems) and (
        "action" not in config.columns
    ):
        config = config.model_copy(update={"action": document.requests.target})
    most = document.prepare.max_quarantine_share
    for name in _TIMES:
        raw = _column(seen, config.columns.get(name, name))
        if raw is not None:
            read = advice.read_times(raw, config)
            told, config = advice.times(raw, read, name, config, most)
            problems += told
    raw = None if config.action else _column(seen, config.columns.get("action", "action"))
    if raw is not None:
        values = as_text(raw).replace(config.actions) if config.actions else as_text(raw)
        counts = dict(values.value_counts(sort=True).iter_rows())
        told, config = advice.actions(counts, raw.name, config, most)
        problems += told
    return problems, config


def _column(seen: Sample, name: str | None) -> pl.Series | None:
    """A column of all rows, as text where its type is not the same in all files."""
    tables = [part.rows.table for part in seen.parts]
    parts = [pl.Series(name, t[name]) for t in tables if name in t.column_names]
    if len({part.dtype for part in parts}) > 1:
        parts = [as_text(part) for part in parts]
    return pl.concat(parts) if parts else None


@dataclass(frozen=True)
class _Cleaned:
    part: Part
    mapped: pa.Table
    rows: pa.Table


def _cleaned(seen: Sample, document: Document, config: SourceConfig, now_ms: int) -> list[_Cleaned]:
    done = []
    for part in seen.parts:
        table = part.rows.table
        mapped = mapped_rows(
            table, source=config, items=document.items, context=document.requests.context
        )
        done.append(_Cleaned(part, mapped, clean(table, mapped, source=config, now_ms=now_ms)))
    return done


def _feeds(
    source: Source, seen: Sample, document: Document, config: SourceConfig
) -> dict[str, str]:
    """What each column of an event comes from, as people say it."""
    adapt = adapter(document.source.adapter)
    if adapt is not None:
        names = adapt(seen.parts[0].rows.table.slice(0, 1)).column_names if seen.parts else []
        feeds = {n: f"adapter {document.source.adapter}" for n in names if not n.startswith("_")}
    else:
        feeds = sources(
            source.names, source=config, items=document.items, context=document.requests.context
        )
    if config.action:
        feeds["action"] = f"source.action: {config.action}"
    feeds.setdefault("event_id", "the content of the row")
    feeds.setdefault("arrived_at", "ts plus source.delay")
    feeds.setdefault("session_id", f"pauses of {document.memory.view.session_gap // 60_000} min")
    return feeds


def _raw_columns(seen: Sample, feeds: Mapping[str, str]) -> tuple[Column, ...]:
    if not seen.parts:
        return ()
    table = seen.parts[0].rows.table
    rows = table.slice(0, _ROWS_SHOWN)
    return tuple(
        Column(
            name,
            str(table.schema.field(name).type),
            ", ".join(fed for fed, column in feeds.items() if column == name),
            _texts(rows[name]),
        )
        for name in table.column_names
    )


def _event_columns(first: _Cleaned, feeds: Mapping[str, str]) -> tuple[Column, ...]:
    """What became of the first rows, and why they are set aside if they are."""
    rows = first.mapped.slice(0, _ROWS_SHOWN)
    names = [name for name in rows.column_names if name != REASON]
    columns = [Column(n, "", feeds.get(n, "-"), _texts(rows[n])) for n in names]
    bad = first.rows.filter(first.rows["reason"].is_valid())
    why = dict(zip(bad["place"].to_pylist(), bad["reason"].to_pylist(), strict=True))
    if any(place in why for place in range(len(rows))):
        reasons = tuple(why.get(place, "-") for place in range(len(rows)))
        columns.append(Column("set aside", "", "", reasons))
    return tuple(columns)


def _texts(values: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    column = pl.Series("", values)
    if isinstance(column.dtype, pl.Datetime):
        column = column.dt.strftime("%Y-%m-%d %H:%M:%S")
    if column.dtype == pl.Float32:
        column = column.cast(pl.Float64).round_sig_figs(6)
    return tuple("-" if text is None else text for text in as_text(column).to_list())


def _good(done: Sequence[_Cleaned]) -> pl.DataFrame:
    """All good rows in the order read, with the number of their part."""
    frames = []
    for number, one in enumerate(done):
        rows = one.rows.filter(one.rows["reason"].is_null())
        kept = [name for name in rows.column_names if name not in ("reason", "row", "place")]
        part = pl.lit(number).alias("part")
        frames.append(pl.DataFrame(rows.select(kept)).with_columns(part))
    return pl.concat(frames, how="diagonal_relaxed")


def _wrong(seen: Sample, done: Sequence[_Cleaned]) -> tuple[Wrong, ...]:
    """Rows set aside, by reason, the commonest first."""
    num: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for one in done:
        bad = one.rows.filter(one.rows["reason"].is_valid())
        num.update(bad["reason"].to_pylist())
        for reason in set(bad["reason"].unique().to_pylist()) - first.keys():
            row = bad.filter(pc.equal(bad["reason"], reason)).slice(0, 1).to_pylist()[0]
            number = one.part.rows.numbers[row["place"]]
            first[reason] = (_origin(one.part, number), row["row"])
    for part in seen.parts:
        for broken in part.rows.broken:
            num[broken.reason] += 1
            first.setdefault(broken.reason, (_origin(part, broken.number), broken.text))
    ordered = sorted(num.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Wrong(reason, n, *first[reason]) for reason, n in ordered)


def _origin(part: Part, number: int) -> str:
    return f"{part.file}, row {number}" if number >= 0 else f"{part.file}, near its end"


def _counted(good: pl.DataFrame, feeds: Mapping[str, str]) -> dict[str, Any]:
    """Figures of the good rows."""
    if not len(good):
        return {}
    ids = ["user_id", "event_id"]
    told = good.group_by(ids).agg(
        (pl.len() - 1).alias("repeated"),
        (pl.struct("ts", "item_id", "action").n_unique() - 1).alias("differing"),
    )
    by_content = feeds["event_id"] == "the content of the row"
    by_user = good.sort("user_id", "ts").select(
        later=pl.col("arrived_at").reverse().cum_min().reverse().shift(-1).over("user_id"),
        arrived=pl.col("arrived_at"),
    )
    late = int(by_user.select((pl.col("arrived") > pl.col("later")).sum()).item())
    before = pl.col("ts").cum_max().shift(1).over("part")
    return {
        "actions": dict(good["action"].value_counts(sort=True).iter_rows()),
        "first": _moment(good["ts"].min()),
        "last": _moment(good["ts"].max()),
        "users": good["user_id"].n_unique(),
        "items": good["item_id"].drop_nulls().n_unique(),
        "repeated_by": "all their columns" if by_content else "user and event_id",
        "repeated": int(told["repeated"].sum()),
        "differing": int(told["differing"].sum()),
        "late": None if feeds["arrived_at"].startswith("ts ") else late,
        "unordered": int(good.select((pl.col("ts") < before).sum()).item()),
    }


def _moment(ts: Any) -> str:
    return f"{ts:%Y-%m-%d %H:%M:%S}"


def _unused(source: Source, document: Document, feeds: Mapping[str, str]) -> list[Problem]:
    columns = [*feeds.values(), *document.source.columns.values()]
    return advice.unused(source.names, [name for name in columns if name is not None])


def _split(good: pl.DataFrame, document: Document) -> tuple[tuple[Split, ...], list[Problem]]:
    """What falls into each split, and good times where one is empty."""
    requests = document.requests
    ms = good["ts"].cast(pl.Int64)
    begin = requests.warmup.timestamp() * 1000 if requests.warmup else 0
    asked = good["action"].is_in(requests.labels) & good["item_id"].is_not_null() & (ms >= begin)
    if requests.split == "leave_one_out":
        place = _left_out(good, asked, requests.target)
    else:
        place = pl.Series("place", requests.split_of(ms.to_numpy()))
    days = good["ts"].dt.date()
    splits = tuple(
        Split(
            name,
            days.filter(place == n).n_unique(),
            int((place == n).sum()),
            int((asked & (place == n)).sum()),
        )
        for n, name in enumerate(SPLITS)
    )
    seen = Counter(dict(good["action"].value_counts().iter_rows()))
    counts = {split.name: split.labelled for split in splits}
    return splits, advice.splits(good["ts"].filter(asked), counts, requests, seen)


def _left_out(good: pl.DataFrame, asked: pl.Series, target: str) -> pl.Series:
    """The place of each row's split; -1 where it is in none."""
    found = np.full(len(good), -1)
    rows = good.select("user_id", "ts", "event_id", "action").with_row_index("row").filter(asked)
    rows = rows.sort("user_id", "ts", "event_id")
    owner = rows["user_id"].rle_id().cast(pl.Int64).to_numpy()
    found[rows["row"].to_numpy()] = leave_one_out.splits(
        owner, (rows["action"] == target).to_numpy()
    )
    return pl.Series("place", found)


def _catalogue_problems(good: pl.DataFrame, document: Document) -> list[Problem]:
    """What prepare would say of the items."""
    events = good.drop("part").to_arrow(compat_level=pl.CompatLevel.oldest())
    items, own = document.items, None
    try:
        if items.path is not None:
            table = locate(items.path, document.source, "items")
            if sum(file.size for file in table.files) > _LARGE_TABLE:
                return []
            own = whole(table, document.source)
        catalogue_table(
            first_rows(events),
            catalogue=document.catalogue,
            items=items,
            source=document.source,
            own=own,
        )
    except ValueError as error:
        return [Problem(str(error), "", stops=True)]
    return [] if own is None else _strangers(good, own, items)


def _strangers(good: pl.DataFrame, own: pa.Table, items: ItemsConfig) -> list[Problem]:
    """Items of events that their table does not have."""
    named = good["item_id"].drop_nulls().unique()
    known = as_text(pl.Series("", own[items.columns.get("item_id", "item_id")]))
    lost = named.filter(~named.is_in(known.implode()))
    if not len(lost):
        return []
    what = f"{len(lost):,} of {len(named):,} items of events are not in {items.path}: "
    what += ", ".join(map(repr, lost.head(3).to_list()))
    return [Problem(what, "they will have no fields; is items.columns.item_id the right column?")]
