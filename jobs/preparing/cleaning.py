"""One chunk of a log: its good events as rows by part, its wrong ones with their reasons.

Plain functions on files; `pipeline` runs them on Ray. A chunk's rows lie in one Arrow file in runs
of `num_parts` batches, so that each part finds its own without reading the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.collecting import without
from jobs.files import new_arrow, once, open_arrow, write_table
from jobs.preparing.ledger import FORGOTTEN
from jobs.sources import Chunk, Rows, Source, adapter, read
from models.items import first_rows
from models.mapping import CONTEXT, ItemsConfig, SourceConfig, clean, map_rows
from models.parts import part_of
from models.records import pack, schema
from models.stores.tombstones import Tombstones

QUARANTINE = pa.schema(
    [("file", pa.string()), ("number", pa.int64()), ("reason", pa.string()), ("row", pa.string())]
)
"""A row that was turned away: where it was read (rows of a file count from 0), why, and what it
says, as JSON of its columns or as it stands in the file."""


@dataclass(frozen=True)
class Cleaning:
    """What is done with every chunk of a source."""

    source: Source
    config: SourceConfig
    items: ItemsConfig
    context: tuple[str, ...]
    """Fields that requests want; the service's own log has none of them."""
    slates: bool
    has_context: bool
    forgotten: Tombstones
    """What users of the service had forgotten: such events are left out, wherever they are from."""
    num_parts: int
    now_ms: int

    def run(self, chunk: Chunk, folder: Path) -> dict[str, Any]:
        """Reads a chunk and writes what it holds, unless that is done; returns its counts."""
        return once(folder / "chunks" / f"{chunk.id}.json", partial(self._clean, chunk, folder))

    def _clean(self, chunk: Chunk, folder: Path) -> dict[str, Any]:
        path = folder / "chunks" / f"{chunk.id}.arrow"
        counts = _Counts()
        firsts: list[pa.Table] = []
        wrong: list[pa.Table] = []
        with new_arrow(path, schema(self.context, slates=self.slates), "lz4") as writer:
            for rows in read(self.source, chunk, self.config):
                good, bad = self.cleaned(rows, chunk.file.path)
                counts.add(good, bad, len(rows.table) + len(rows.broken))
                wrong.append(bad)
                firsts = [first_rows(pa.concat_tables([*firsts, first_rows(good)]))]
                packed = pack(good, self.context, slates=self.slates)
                for batch in _by_part(packed, self.num_parts):
                    writer.write_batch(batch)
        write_table(firsts[0] if firsts else NO_ITEMS, path.with_suffix(".items.parquet"))
        if sum(map(len, wrong)):
            write_table(pa.concat_tables(wrong), folder / "quarantine" / f"{chunk.id}.parquet")
        return counts.as_dict()

    def cleaned(self, rows: Rows, file: str) -> tuple[pa.Table, pa.Table]:
        """The good events of some rows, and the wrong rows in `QUARANTINE`.

        Raises:
            ValueError: naming the file, when a column is missing or times have no unit.
        """
        try:
            mapped = mapped_rows(
                rows.table,
                source=self.config,
                items=self.items,
                context=self.context if self.has_context else (),
            )
        except ValueError as error:
            raise ValueError(f"{error} (in {file})") from error
        found = clean(rows.table, mapped, source=self.config, now_ms=self.now_ms)
        num_good = found["reason"].null_count
        bad = found.slice(num_good)
        number = rows.numbers[bad["place"].to_numpy()]
        broken = [{"number": b.number, "reason": b.reason, "row": b.text} for b in rows.broken]
        wrong = pa.table({"number": number, "reason": bad["reason"], "row": bad["row"]})
        both = pa.concat_tables([wrong, pa.Table.from_pylist(broken, wrong.schema)])
        both = both.add_column(0, "file", pa.repeat(file, len(both)))
        good = found.slice(0, num_good).drop(["reason", "row", "place"])
        good = without(good, self.forgotten)
        for field in self.context:  # a log of the service has none
            if CONTEXT + field not in good.column_names:
                good = good.append_column(CONTEXT + field, pa.nulls(len(good), pa.string()))
        return good, both.cast(QUARANTINE)


def mapped_rows(
    raw: pa.Table, *, source: SourceConfig, items: ItemsConfig, context: Sequence[str]
) -> pa.Table:
    """`models.mapping.map_rows` of what the source's adapter makes of the rows, if it has one.

    Raises:
        ValueError: when the adapter loses or invents rows; as `map_rows` does.
    """
    adapt = adapter(source.adapter)
    adapted = adapt(raw) if adapt is not None else raw
    if len(adapted) != len(raw):
        raise ValueError(
            f"source.adapter: {source.adapter} made {len(adapted)} rows of {len(raw)}; "
            "it must give a row for a row and mark the wrong ones"
        )
    return map_rows(adapted, source=source, items=items, context=context)


NO_ITEMS = pa.table({"item_id": pa.array([], pa.string())})
"""What a chunk without rows knows of items."""


class _Counts:
    """Of one chunk, added up over its batches."""

    def __init__(self) -> None:
        self.good = self.wrong = 0
        self.reasons: Counter[str] = Counter()
        self.spans: list[tuple[int, int, int]] = []

    def add(self, good: pa.Table, bad: pa.Table, num_read: int) -> None:
        self.good += len(good)
        self.wrong += num_read - len(good)
        self.reasons.update(bad["reason"].to_pylist())
        if forgotten := num_read - len(good) - len(bad):
            self.reasons[FORGOTTEN] += forgotten
        if len(good):
            ts = pc.min_max(good["ts"].cast(pa.int64())).as_py()
            arrived = pc.max(good["arrived_at"].cast(pa.int64())).as_py()
            self.spans.append((ts["min"], ts["max"], arrived))

    def as_dict(self) -> dict[str, Any]:
        low, high, arrived = zip(*self.spans, strict=True) if self.spans else ((), (), ())
        return {
            "good": self.good,
            "wrong": self.wrong,
            "reasons": dict(self.reasons),
            "first_ms": min(low, default=None),
            "last_ms": max(high, default=None),
            "arrived_ms": max(arrived, default=None),
        }


def _by_part(rows: pa.Table, num_parts: int) -> list[pa.RecordBatch]:
    """One batch for each part, in their order, empty ones too."""
    part = part_of(rows["user_id"], num_parts)
    order = np.argsort(part, kind="stable")
    ends = np.searchsorted(part[order], np.arange(num_parts + 1))
    ordered = rows.take(pa.array(order)).combine_chunks()
    whole_batch = (
        ordered.to_batches()[0] if len(ordered) else pa.RecordBatch.from_pylist([], ordered.schema)
    )
    return [whole_batch.slice(low, high - low) for low, high in pairwise(ends.tolist())]


def rows_of_part(
    folder: Path, chunks: Sequence[str], part: int, num_parts: int
) -> list[pa.RecordBatch]:
    """The rows of one part in all chunks, by their ids."""
    found = []
    for chunk in chunks:
        reader = open_arrow(folder / "chunks" / f"{chunk}.arrow")
        found += [reader.get_batch(n) for n in range(part, reader.num_record_batches, num_parts)]
    return found


def items_of(folder: Path, chunks: Sequence[str]) -> list[pa.Table]:
    """The first event of every item of each chunk."""
    paths = [folder / "chunks" / f"{chunk}.items.parquet" for chunk in chunks]
    return [table for path in paths if len(table := pq.read_table(path))]
