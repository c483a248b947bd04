"""The item table: from the first event of each item, or from a table of its own.

`first_rows` is a fold that can run on any split of the events: first of each part, then first of
the firsts.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from models.catalogue import CatalogueConfig
from models.columns import TIME, as_number, as_text, as_time
from models.mapping import ITEM, ItemsConfig, SourceConfig


def first_rows(events: pa.Table) -> pa.Table:
    """The first event of each item by `(ts, event_id, user_id)`: id, time and item fields.

    Args:
        events: good rows, with `item_<field>` columns where they carry item fields.
    """
    order = ["item_id", "ts", "event_id", "user_id"]
    names = [n for n in events.column_names if n.startswith(ITEM) and n not in order]
    frame = pl.DataFrame(events.select([*order, *names])).filter(pl.col("item_id").is_not_null())
    # Few rows are left to sort: those of each item's first moment.
    early = frame.filter(pl.col("ts") == pl.col("ts").min().over("item_id"))
    first = early.sort(order).filter(pl.col("item_id").is_first_distinct())
    return first.to_arrow(compat_level=pl.CompatLevel.oldest())


def catalogue_table(
    first: pa.Table,
    *,
    catalogue: CatalogueConfig,
    items: ItemsConfig,
    source: SourceConfig,
    own: pa.Table | None = None,
) -> pa.Table:
    """What `Catalogue` takes: `item_id`, `text`, `first_seen` and the fields, oldest first.

    Fields come from the item's first event, so that nothing of the future is in them, or from its
    own table. There an item that no event names counts as old as the log, and an item that only
    events name has no fields.

    Args:
        first: `first_rows` of all good events.
        own: the item table as read, where `items.path` names one.

    Raises:
        ValueError: when a field that `catalogue` names is nowhere, or an item's row comes twice.
    """
    seen = pl.DataFrame(first).rename({"ts": "first_seen"}).drop("event_id", "user_id")
    seen = seen.with_columns(pl.col("first_seen").cast(TIME))
    if own is None:
        found = seen.rename({n: n.removeprefix(ITEM) for n in seen.columns if n != "item_id"})
    else:
        found = _joined(seen.select("item_id", "first_seen"), _own(own, items, source))
    if "text" not in found:
        found = found.with_columns(text=pl.lit(None, pl.String))
    missing = [n for n in (*catalogue.categories, *catalogue.numbers) if n not in found]
    if missing:
        raise ValueError(
            f"catalogue names {', '.join(missing)}, which no item has; map it in `items.columns` "
            f"(there are {', '.join(found.columns)})"
        )
    numbers = [as_number(found[name]).alias(name) for name in catalogue.numbers]
    ordered = found.with_columns(numbers).sort("first_seen", "item_id")
    table = ordered.to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = [pa.string() if pa.types.is_large_string(f.type) else f.type for f in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, plain, strict=True))))


def _own(table: pa.Table, items: ItemsConfig, source: SourceConfig) -> pl.DataFrame:
    frame = pl.DataFrame(table)
    wanted = {"item_id": "item_id", **items.columns}
    for name, column in wanted.items():
        if column not in frame.columns:
            raise ValueError(
                f"items.columns.{name}: there is no column {column!r}; "
                f"{items.path} has {', '.join(frame.columns)}"
            )
    columns = {name: as_text(frame[column]) for name, column in wanted.items()}
    if "first_seen" in wanted:
        raw = frame[wanted["first_seen"]]
        columns["first_seen"] = as_time(raw, unit=source.ts_unit, form=source.ts_format)
    own = pl.DataFrame([column.alias(name) for name, column in columns.items()])
    twice = own.filter(pl.col("item_id").is_duplicated() | pl.col("item_id").is_null())
    if len(twice):
        raise ValueError(
            f"{items.path}: {len(twice)} rows have no item id or share one, such as "
            f"{twice['item_id'][0]!r}; give every item one row"
        )
    return own


def _joined(seen: pl.DataFrame, own: pl.DataFrame) -> pl.DataFrame:
    """All items of both; the table's own `first_seen` wins, then the first event's."""
    if "first_seen" not in own:
        own = own.with_columns(first_seen=pl.lit(None, TIME))
    both = own.join(seen, on="item_id", how="full", coalesce=True, suffix="_event")
    begin = pl.lit(seen["first_seen"].min(), TIME)
    when = pl.coalesce("first_seen", "first_seen_event", begin)
    return both.with_columns(first_seen=when).drop("first_seen_event")
