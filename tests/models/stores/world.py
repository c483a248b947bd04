"""A small world for stores: a clock to turn, events to send, states to expect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import SCHEMA, Interactions, Interests, encode, validate
from models.memory import State, StateSpec, fold
from models.memory import encode as to_bytes
from models.memory.facts import facts_of
from models.memory.ring import canonical
from models.stores import LmdbStore, MemoryStore, StoreConfig
from tests.models.memory.strategies import SPEC

NOW = 1_700_000_000_000
HORIZON = 7 * DAY_MS


class Clock:
    """Stands still until it is turned."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def buckets(items: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Interests without a catalogue."""
    return (items % np.uint64(SPEC.num_interests)).astype(np.uint16)


def open_lmdb(
    folder: Path,
    clock: Clock | None = None,
    *,
    spec: StateSpec = SPEC,
    interests: Interests = buckets,
    **config: Any,
) -> MemoryStore:
    """Without sync unless asked for: the tests kill processes, not machines."""
    settings = StoreConfig(path=folder, **{"sync": False, **config})
    return LmdbStore(settings, spec=spec, interests=interests, clock=clock or Clock())


Open = Callable[..., MemoryStore]
"""Opens a store: `(folder, clock, spec=..., **config)`; one folder is one store."""
STORES: dict[str, Open] = {"lmdb": open_lmdb}


def events(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Good rows; what is not given is an event of ann, viewing one item, an hour ago."""
    plain = {"user_id": "ann", "ts": NOW - DAY_MS // 24, "item_id": "i1", "action": "view"}
    table = pa.Table.from_pylist([{**plain, **row} for row in rows], schema=SCHEMA)
    checked = validate(table, now_ms=2 * NOW)
    assert not len(checked.rejected), checked.rejected.to_pylist()
    return checked.good


def numbered(numbers: Iterable[int], num_users: int = 3) -> pa.Table:
    """Events that are functions of their number: users in turn, times up to six days back."""
    return events(
        {
            "event_id": f"e{n}",
            "user_id": f"u{n % num_users}",
            "item_id": f"i{n % 11}",
            "action": ("view", "purchase", "dismiss")[n % 5 % 3],
            "ts": NOW - (n * 7_919_003) % (6 * DAY_MS),
        }
        for n in numbers
    )


def mixed(numbers: Iterable[int], num_users: int = 3) -> pa.Table:
    """The same with everything in it: impressions, refusals, facts of two slots, some withdrawn.

    Two events in seven say a fact; half of the facts are about an item.
    """
    actions = ("impression", "view", "state", "decline", "impression", "purchase", "state")
    return events(
        {
            "event_id": f"e{n}",
            "user_id": f"u{n % num_users}",
            "item_id": f"i{n % 11}" if n % 7 != 2 else None,
            "action": (action := actions[n % 7]),
            "session_id": f"s{n // 40}" if n % 2 else None,
            "ts": NOW - (n * 7_919_003) % (6 * DAY_MS),
            **({} if action != "state" else {"slot": f"slot{n % 2}", "fact_source": "observed"}),
            **({"fact": f'{{"size": {n}}}'} if action == "state" and n % 3 else {}),
        }
        for n in numbers
    )


def folded(table: pa.Table, user_id: str) -> State:
    """What memory says of one user's events in a table."""
    own = table.filter(pc.equal(table["user_id"], user_id))
    return fold(encode(own, buckets), SPEC, facts_of(own))


def recorded(table: pa.Table, user_id: str) -> Interactions:
    """One user's events in a table as memory sees them, in the one order of all."""
    return canonical(encode(table.filter(pc.equal(table["user_id"], user_id)), buckets))


def bytes_of(store: MemoryStore, *user_ids: str) -> list[bytes]:
    """The bytes of states."""
    return [to_bytes(state, SPEC) for state in store.get_many(user_ids)]


def ids(table: pa.Table | pa.RecordBatch) -> list[str]:
    """Event ids in order."""
    found: list[str] = table["event_id"].to_pylist()
    return found


def streamed(store: MemoryStore, after: int = 0) -> list[str]:
    """Event ids of the whole stream."""
    return [event for _, batch in store.stream(after) for event in ids(batch)]


def late(store: MemoryStore) -> list[str]:
    """Ids of all late events."""
    return sorted(event for batch in store.late_events() for event in ids(batch))
