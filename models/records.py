"""Rows: events as small as prepared data keeps them, with what requests need beside memory.

A row is the user, the interaction record that memory sees, when it arrived, and a few columns more:
what an event of action `state` says, the place in a shown slate, context fields. Chunks of a log
and histories on disk are tables of such rows.

Rows of one user are distinct by the key of their event id; of several the first to arrive counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.events import ACTIONS, INTERACTION, SCHEMA, STATE, Interactions, encode
from models.keys import keys_of
from models.mapping import CONTEXT
from models.memory import Fact
from models.memory.facts import facts_of

Ints = NDArray[np.int64]
RECORD = pa.binary(INTERACTION.itemsize)
SLATE = {"request": pa.uint64(), "position": pa.int32(), "propensity": pa.float32()}
"""What a row knows of the request that showed its item: the key of its id (0: none), the place in
the slate, and the chance with which it was shown."""
_SAID = ("event_id", "ts", "slot", "fact", "fact_source", "valid_until")


def schema(context: Sequence[str] = (), *, slates: bool = False) -> pa.Schema:
    """The columns of rows, with the context fields and the places in slates that requests want."""
    return pa.schema(
        [
            ("user_id", pa.string()),
            ("record", RECORD),
            ("arrived", pa.int64()),
            ("said", pa.string()),
            *(SLATE.items() if slates else ()),
            *((CONTEXT + field, pa.string()) for field in context),
        ]
    )


def pack(good: pa.Table, context: Sequence[str] = (), *, slates: bool = False) -> pa.Table:
    """Good events of `models.events.validate` as rows, in their order; interests not filled in.

    Args:
        good: with `context_<field>` columns for the `context`.
    """
    columns = {
        "user_id": good["user_id"],
        "record": packed(encode(good, keys=keys_of)),
        "arrived": good["arrived_at"].cast(pa.int64()),
        "said": _said(good),
        **{CONTEXT + field: good[CONTEXT + field] for field in context},
    }
    if slates:
        columns["request"] = pa.array(keys_of(good["request_id"]))
        columns |= {name: good[name] for name in ("position", "propensity")}
    wanted = schema(context, slates=slates)
    return pa.table([columns[name] for name in wanted.names], schema=wanted)


def packed(records: Interactions) -> pa.FixedSizeBinaryArray:
    """`(N,)` the bytes of each record."""
    whole = pa.py_buffer(np.ascontiguousarray(records))
    return pa.FixedSizeBinaryArray.from_buffers(RECORD, len(records), [None, whole])


def interactions(rows: pa.Table) -> Interactions:
    """`(N,)` the records of rows; read-only, over the table's own memory where it lies together."""
    chunks = rows["record"].chunks
    # The buffer of a file is longer than its records: it ends at a multiple of eight bytes.
    parts = [
        np.frombuffer(c.buffers()[1], INTERACTION, c.offset + len(c))[c.offset :]
        for c in chunks
        if len(c)
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, INTERACTION)


def _said(good: pa.Table) -> pa.Array:
    """`(N,)` JSON of what an event of action `state` says, null for others."""
    states = np.asarray(pc.fill_null(pc.equal(good["action"], STATE), False))
    if not states.any():
        return pa.nulls(len(good), pa.string())
    facts = good.select(list(_SAID)).filter(pa.array(states))
    facts = facts.set_column(1, "ts", facts["ts"].cast(pa.int64()))
    facts = facts.set_column(5, "valid_until", facts["valid_until"].cast(pa.int64()))
    texts = iter([orjson.dumps(list(fact.values())).decode() for fact in facts.to_pylist()])
    return pa.array([next(texts) if state else None for state in states.tolist()], pa.string())


def is_fact(records: Interactions) -> NDArray[np.bool_]:
    """`(N,)` which rows say a fact: they are no interactions."""
    found: NDArray[np.bool_] = records["action"] == ACTIONS[STATE].code
    return found


def facts_in(rows: pa.Table, users: pa.Array) -> list[Fact]:
    """The facts of rows that all say one, in their order.

    Args:
        users: `(N,)` who says them.
    """
    said = [orjson.loads(text) for text in rows["said"].to_pylist()]
    columns = dict(zip(_SAID, zip(*said, strict=True), strict=True)) if said else {}
    given = {
        "user_id": users,
        "arrived_at": rows["arrived"].cast(SCHEMA.field("arrived_at").type),
        "action": pa.array([STATE] * len(rows)),
        **{name: pa.array(columns.get(name, ()), _type(name)) for name in _SAID},
    }
    return facts_of(pa.table(given))


def _type(name: str) -> pa.DataType:
    return SCHEMA.field(name).type


def distinct(rows: pa.Table) -> NDArray[np.bool_]:
    """`(N,)` whether a row counts: of those with one event key the first to arrive.

    Of rows that arrived together the choice is by what they say, so that it depends on no order.
    """
    records = interactions(rows)
    repeated = np.flatnonzero(pl.Series(records["event"]).is_duplicated().to_numpy())
    counts = np.ones(len(rows), bool)
    if not len(repeated):
        return counts
    some = rows.take(pa.array(repeated))
    columns = {name: np.ascontiguousarray(records[name][repeated]) for name in _ORDER}
    frame = pl.DataFrame({"arrived": some["arrived"].to_numpy(), **columns})
    others = [name for name in some.column_names if name not in ("user_id", "record", "arrived")]
    frame = frame.with_columns(*(pl.Series(name, some[name]) for name in others))
    by = ["event", "arrived", *(name for name in _ORDER if name != "event"), *others]
    first = frame.with_row_index("row").sort(by).filter(pl.col("event").is_first_distinct())
    counts[repeated] = False
    counts[repeated[first["row"].to_numpy()]] = True
    return counts


_ORDER = ("event", "ts", "item", "action", "session", "value")


def in_order(codes: Ints, records: Interactions) -> Ints:
    """`(N,)` rows user after user (by code), in each user by `(ts, event)`."""
    columns = {name: np.ascontiguousarray(records[name]) for name in ("ts", "event")}
    frame = pl.DataFrame({"user": codes, **columns})
    return frame.select(pl.arg_sort_by("user", "ts", "event")).to_series().to_numpy().astype(int)
