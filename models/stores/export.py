"""All that a store holds about one user, as JSON that a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.events import ACTION_NAMES, SCHEMA, TIMESTAMP, keys64
from models.memory import Fact, State, StateSpec, tiles
from models.stores.protocol import MemoryStore
from models.stores.tombstones import Graves, user_key

_TIMES = [field.name for field in SCHEMA if field.type == TIMESTAMP]


def export(
    store: MemoryStore,
    user_id: str,
    *,
    spec: StateSpec,
    items: Mapping[int, str] | None = None,
    interests: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Everything about a user, in JSON types only; times are RFC 3339, UTC.

    Args:
        spec: of the store.
        items: ids by item key, for events that came with a snapshot: of those the store has no
            more than the key, which is told where there is no id. A catalogue knows them.
        interests: names by bucket.

    Returns:
        `events` as they were received, late ones too; `earlier_events`, which came with a
        snapshot; `facts` that were said; `counts`, what the state has counted, at each resolution;
        `forgotten`, what tombstones keep out. The state's single events are among the events.
    """
    (state,), history = store.get_many([user_id]), store.history(user_id)
    known = store.interactions(user_id)
    earlier = known[~np.isin(known["event"], _keys(history))]
    return {
        "user_id": user_id,
        "events": [_received(row) for row in history.to_pylist()],
        "earlier_events": [_known(one, items or {}, interests) for one in earlier],
        "facts": [_said(fact) for fact in state.facts],
        "counts": _counts(state, spec, interests),
        "forgotten": _forgotten(store, user_id),
    }


def _keys(history: pa.Table) -> NDArray[np.uint64]:
    pairs = pc.binary_join_element_wise(history["user_id"], history["event_id"], "\0")
    return keys64(pairs)


def _received(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `SCHEMA` without nulls."""
    times = {name: row[name].isoformat() for name in _TIMES if row[name] is not None}
    return {name: value for name, value in {**row, **times}.items() if value is not None}


def _known(
    one: np.void, items: Mapping[int, str], interests: Sequence[str] | None
) -> dict[str, Any]:
    """A record of `INTERACTION`."""
    item, session = int(one["item"]), int(one["session"])
    return {
        "ts": _time(int(one["ts"])),
        "action": ACTION_NAMES[int(one["action"])],
        **({"item_id": items.get(item, f"key {item:016x}")} if item else {}),
        **({"session": f"key {session:016x}"} if session else {}),
        "interest": _interest(int(one["interest"]), interests),
        "value": float(one["value"]),
    }


def _said(fact: Fact) -> dict[str, Any]:
    return {
        "slot": fact.slot,
        "value": None if fact.value is None else orjson.loads(fact.value),
        "source": fact.source.name.lower(),
        "said_at": _time(fact.said_ms),
        "known_at": _time(fact.known_ms),
        "valid_until": None if fact.until_ms is None else _time(fact.until_ms),
    }


def _counts(state: State, spec: StateSpec, interests: Sequence[str] | None) -> list[dict[str, Any]]:
    levels, indices, cells = (column.tolist() for column in tiles.unpack(state.tiles["key"]))
    actions, buckets = (column.tolist() for column in tiles.uncell(np.asarray(cells, np.int64)))
    counts = state.tiles["count"].tolist()
    return [
        {
            "from": _time(index * spec.levels[level].hop),
            "until": _time((index + 1) * spec.levels[level].hop),
            "action": ACTION_NAMES[action],
            "interest": _interest(bucket, interests),
            "count": count,
        }
        for level, index, action, bucket, count in zip(
            levels, indices, actions, buckets, counts, strict=True
        )
    ]


def _forgotten(store: MemoryStore, user_id: str) -> dict[str, Any]:
    """Of items only the number: what they were is not kept."""
    prefix = user_key(user_id)
    found = {key: ts for key, ts in store.tombstones().items() if key.startswith(prefix)}
    graves = Graves.of(user_id, found.items())
    until = {"until": _time(graves.until)} if graves.until >= 0 else {}
    return {**until, "num_items": len(graves.items)}


def _interest(bucket: int, names: Sequence[str] | None) -> str | int:
    return names[bucket] if names is not None else bucket


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()
