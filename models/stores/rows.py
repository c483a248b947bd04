"""Bytes of stored events: what was sent as JSON, what memory sees of it as a packed record.

JSON: one object per event, keys as in `SCHEMA`, times as whole milliseconds. Nulls are left out, so
a column that `SCHEMA` gains later reads as null from an older row. An Arrow message per event would
carry its schema each time, about five times the bytes.

Packed: the fields of `INTERACTION` that the key of a record does not hold already.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.events import INTERACTION, SCHEMA, TIMESTAMP, Interactions

REST = np.dtype([(name, INTERACTION[name]) for name in (INTERACTION.names or ())[2:]])
"""`INTERACTION` without `ts` and `event`, the key of a record: 23 bytes."""
assert INTERACTION.names is not None
assert INTERACTION.names[:2] == ("ts", "event")

_NULLABLE = pa.schema([field.with_nullable(True) for field in SCHEMA])


def checked(events: pa.Table) -> pa.Table:
    """The same table, under one schema whatever it said of nulls.

    Raises:
        ValueError: when the columns or their types are not those of `SCHEMA`.
    """
    if events.column_names != SCHEMA.names or events.schema.types != SCHEMA.types:
        found = [f"{field.name} {field.type}" for field in events.schema]
        raise ValueError(
            f"events have the columns {found}, not those of models.events.SCHEMA; "
            "give the good rows of models.events.validate"
        )
    return pa.Table.from_arrays(events.columns, schema=_NULLABLE)


def to_bytes(events: pa.Table) -> list[bytes]:
    """Each row of a table in `SCHEMA` as JSON."""
    columns: dict[str, list[object]] = {}
    for name, column in zip(SCHEMA.names, events.columns, strict=True):
        if column.null_count < len(column):
            is_time = column.type == TIMESTAMP  # no datetime objects
            columns[name] = (column.cast(pa.int64()) if is_time else column).to_pylist()
    names = tuple(columns)
    return [
        orjson.dumps({k: v for k, v in zip(names, row, strict=True) if v is not None})
        for row in zip(*columns.values(), strict=True)
    ]


def to_batch(stored: Sequence[bytes]) -> pa.RecordBatch:
    """The reverse of `to_bytes`: one batch in `SCHEMA`, in the order given."""
    rows = [orjson.loads(row) for row in stored]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def history_of(received: Sequence[bytes], late: Sequence[bytes]) -> pa.Table:
    """A user's rows as a table by time; empty ones came with a snapshot and are not told."""
    known = pa.Table.from_batches([to_batch([body for body in received if body])])
    unknown = pa.Table.from_batches([to_batch(late)])
    # A late event may have come again in time, with another ts.
    again = pc.is_in(unknown["event_id"], value_set=known["event_id"])
    return pa.concat_tables([known, unknown.filter(pc.invert(again))]).sort_by(
        [("ts", "ascending"), ("event_id", "ascending")]
    )


def pack(interactions: Interactions) -> list[bytes]:
    """The `REST` of each record, 23 bytes each."""
    rests = np.empty(len(interactions), REST)
    for name in REST.names or ():
        rests[name] = interactions[name]
    packed: list[bytes] = rests.view(f"V{REST.itemsize}").tolist()
    return packed


def unpack(
    ts: NDArray[np.integer], events: NDArray[np.integer], packed: Sequence[bytes]
) -> Interactions:
    """The reverse: records `(N,)` of their times, event keys and rests."""
    rests = np.frombuffer(b"".join(packed), REST)
    interactions = np.empty(len(rests), INTERACTION)
    interactions["ts"], interactions["event"] = ts, events
    for name in REST.names or ():
        interactions[name] = rests[name]
    return interactions
