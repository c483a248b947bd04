"""The steps of `prepare` on Ray Data: read, clean, part by user, write.

Ray only carries blocks between the pure functions of `models`. The first three steps see one block
of rows at a time, the last one part of the users at a time.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from jobs.sources import Source, adapter, blocks
from models.catalogue import Catalogue
from models.columns import LINE, parse_lines
from models.events import key64
from models.items import first_rows
from models.mapping import ITEM, clean, map_rows
from models.requests import SPLITS, partition

if TYPE_CHECKING:
    from configs.load import Document

    Blocks = ray.data.Dataset


def quiet() -> None:
    """Ray Data without bars and chatter of its own, and with the errors of our functions as is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.use_datasource_v2 = False  # it reads a file in one block, and 3 to 8 s later (2.60)
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised, not just told


def _each(rows: Blocks, function: Callable[[pa.Table], pa.Table]) -> Blocks:
    """`function` of every block, whole."""
    mapped: Blocks = rows.map_batches(function, batch_format="pyarrow", batch_size=None)
    return mapped


def cleaned(source: Source, document: Document, now_ms: int) -> Blocks:
    """All rows, good and wrong, as `models.mapping.clean` leaves them; in the object store."""
    wanted, items, context = document.source, document.items, document.requests.context
    adapt = adapter(wanted.adapter)
    expected = tuple(source.names)

    def one(block: pa.Table) -> pa.Table:
        raw = block
        table = parse_lines(block, expected) if block.column_names == [LINE] else block
        adapted = adapt(table) if adapt is not None else table
        if len(adapted) != len(table):
            raise ValueError(
                f"source.adapter: {wanted.adapter} made {len(adapted)} rows of "
                f"{len(table)}; it must give a row for a row and mark the wrong ones"
            )
        mapped = map_rows(adapted, source=wanted, items=items, context=context)
        return clean(raw, mapped, source=wanted, now_ms=now_ms)

    done: Blocks = _each(blocks(source, wanted), one).materialize()
    return done


def reasons(rows: Blocks) -> dict[str, int]:
    """How many rows were turned away for each reason, the commonest first."""

    def count(block: pa.Table) -> pa.Table:
        found = pc.value_counts(_wrong(block)["reason"])
        return pa.table({"reason": found.field("values"), "rows": found.field("counts")})

    total: Counter[str] = Counter()
    for row in _each(rows, count).take_all():
        total[row["reason"]] += row["rows"]
    return dict(total.most_common())


def write_quarantine(rows: Blocks, folder: Path) -> None:
    """The wrong rows as JSON text, each with its reason."""
    _each(rows, _wrong).write_parquet(str(folder.absolute()))


def first_events(rows: Blocks) -> pa.Table:
    """The first event of every item: of each block, then of all."""

    def first(block: pa.Table) -> pa.Table:
        return first_rows(_good(block))

    parts = ray.get(_each(rows, first).to_arrow_refs())
    return first_rows(pa.concat_tables([part for part in parts if len(part)]))


def write_parts(
    rows: Blocks, folder: Path, *, document: Document, catalogue: pa.Table
) -> list[dict[str, Any]]:
    """Histories, states and requests, a pair of files per part of the users.

    One pass gives both tables, so the task writes them itself; names come from the content, and a
    task that runs again overwrites what it wrote. On a cluster `runs` lies on shared storage.

    Returns:
        The counts of each part.
    """
    folder = folder.absolute()
    for name in ("users", "requests"):
        (folder / name).mkdir()
    items = ray.put(catalogue)
    # Not the document as a whole: a worker would import every component's torch to read it.
    requests, memory, fields = document.requests, document.memory, document.catalogue

    def part(block: pa.Table) -> pa.Table:
        interests = Catalogue(ray.get(items), fields).interests
        done = partition(block, requests=requests, memory=memory, interests=interests)
        if len(done.users):
            name = f"{key64(done.users['user_id'][0].as_py()):016x}.parquet"
            _write(done.users, folder / "users" / name)
            _write(done.requests, folder / "requests" / name)
        ts = done.histories.interactions["ts"]
        splits = done.requests["split"].to_pylist()
        counts = {
            "users": len(done.users),
            "kept": len(ts) + done.num_facts,
            "duplicates": done.num_duplicates,
            "late": done.num_late,
            "first_ms": int(ts.min()) if len(ts) else None,
            "last_ms": int(ts.max()) if len(ts) else None,
            **{split: splits.count(split) for split in SPLITS},
        }
        return pa.Table.from_pylist([counts], pa.schema([(n, pa.int64()) for n in counts]))

    parts = document.prepare.num_partitions
    by_user = _each(rows, _events).repartition(parts, keys=["user_id"])
    return list(_each(by_user, part).take_all())


def _wrong(block: pa.Table) -> pa.Table:
    return block.select(["reason", "row"]).filter(block["reason"].is_valid())


def _good(block: pa.Table) -> pa.Table:
    return block.drop(["reason", "row"]).filter(block["reason"].is_null())


def _events(block: pa.Table) -> pa.Table:
    """Good rows without the item fields, which the catalogue has by now."""
    good = _good(block)
    return good.select([n for n in good.column_names if n == "item_id" or not n.startswith(ITEM)])


def _write(table: pa.Table, path: Path) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, fresh, compression="zstd")
    fresh.replace(path)
