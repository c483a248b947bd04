"""Stored events: one JSON object per event, keys as in `SCHEMA`, times as whole milliseconds.

Nulls are left out, so a column that `SCHEMA` gains later reads as null from an older row. An
Arrow message per event would carry its schema each time, about five times the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pyarrow as pa

from models.events import SCHEMA, TIMESTAMP

_PLAIN = pa.schema(
    [f.with_type(pa.int64()) if f.type == TIMESTAMP else f for f in SCHEMA]  # no datetime objects
)


def to_bytes(events: pa.Table) -> list[bytes]:
    """Each row of a table in `SCHEMA`.

    Raises:
        ValueError: when the columns are not those of `SCHEMA`.
    """
    if events.column_names != SCHEMA.names:
        raise ValueError(
            f"events have the columns {events.column_names}, not {SCHEMA.names}; "
            "give the good rows of models.events.validate"
        )
    rows = events.cast(_PLAIN).to_pylist()
    return [orjson.dumps({k: v for k, v in row.items() if v is not None}) for row in rows]


def to_batch(stored: Sequence[bytes]) -> pa.RecordBatch:
    """The reverse of `to_bytes`: one batch in `SCHEMA`, in the order given."""
    rows = [orjson.loads(row) for row in stored]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
