"""The proof of forgetting: after it no way to read gives back a byte of what was forgotten.

What is looked for are the texts that only the forgotten events had, and the keys that stand for
them, in every order of bytes. What is searched is everything that a store gives out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.events import key64
from models.memory import State
from models.stores import MemoryStore, Outcome, Snapshot, export
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import HORIZON, NOW, events, mixed

NAME = "find-me-3f9a"
USER, ITEM = f"{NAME}-user", f"{NAME}-item"
LATE = (4, 9, 14)


def told(user_id: str) -> pa.Table:
    """Twenty events with the item, a few of them late, some of them facts."""
    rows: list[dict[str, Any]] = [
        {
            "event_id": f"{NAME}-{n}",
            "user_id": user_id,
            "item_id": ITEM,
            "session_id": f"{NAME}-session",
            "query": f"{NAME}-query",
            "ts": NOW - 1 - n - (2 * HORIZON if n in LATE else 0),
            "action": ("view", "decline", "impression", "state")[n % 4],
            **({"slot": f"{NAME}-slot", "fact": f'"{NAME}-fact"'} if n % 4 == 3 else {}),
        }
        for n in range(20)
    ]
    return events(rows)


def traces(user_id: str) -> list[bytes]:
    """What must not be found afterwards: the name, which is in every text, and the keys."""
    keys = [key64(f"{user_id}\0{NAME}-{n}") for n in range(20) if n not in LATE]
    keys += [key64(ITEM), key64(f"{NAME}-session")]
    return [NAME.encode(), *(key.to_bytes(8, order) for key in keys for order in ("little", "big"))]


def readings(store: MemoryStore, user_id: str, folder: Path) -> dict[str, bytes]:
    """All that a store gives out, of one user where it asks for one."""
    path = folder / "reading.parquet"
    store.snapshot(path)
    streams = [store.late_events(), (batch for _, batch in store.stream())]
    rows = [row for stream in streams for batch in stream for row in batch.to_pylist()]
    return {
        "get_many": b"".join(map(content, store.get_many([user_id]))),
        "history": _text(store.history(user_id).to_pylist()),
        "interactions": _both(store.interactions(user_id)),
        "nearest": _both(store.nearest(user_id, interests=range(4), recent=SPEC.ring, num=99)),
        "late events, stream": _text(rows),
        "scan": b"".join(user.encode() + content(state) for user, state in store.scan()),
        "export": json.dumps(export(store, user_id, spec=SPEC))
        .encode()
        .replace(user_id.encode(), b"the one who asks"),
        "tombstones": _text([key.hex() for key in store.tombstones()]),
        "snapshot": path.read_bytes() + unpacked(path),
    }


def content(state: State) -> bytes:
    """The content of a state: its bytes are squeezed, so keys in them are not in one piece."""
    rings = b"".join(_both(ring) for ring in (state.ring, state.shown, state.refused))
    return rings + repr(state.facts).encode() + _text([f.event for f in state.facts])


def unpacked(path: Path) -> bytes:
    """A snapshot without the compression of its columns and states."""
    found = [orjson.dumps(str(pq.read_metadata(path).metadata))]
    for user, state, history, said in Snapshot(path, SPEC).rows():
        found += [user.encode(), content(state), _both(history), *said]
    return b"".join(found)


def _both(records: np.ndarray) -> bytes:
    return records.tobytes() + records.byteswap().tobytes()


def _text(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()


def where(given: dict[str, bytes], looked_for: list[bytes]) -> set[str]:
    """The readings that any of it is in."""
    return {name for name, text in given.items() if any(trace in text for trace in looked_for)}


EVERYWHERE = {
    "get_many", "history", "interactions", "nearest", "late events, stream", "scan", "export",
    "snapshot",
}  # fmt: skip


@pytest.mark.parametrize("what", ["user", "item", "time"])
def test_no_reading_gives_back_what_was_forgotten(store, other, tmp_path, what):
    mine = USER if what == "user" else "u1"
    table, looked_for = told(mine), traces(mine)
    for part in (mixed(range(120)), table):
        assert Outcome.ERASED not in store.apply_many(part)
    before = readings(store, mine, tmp_path)
    assert where(before, looked_for) == EVERYWHERE
    assert not [trace for trace in looked_for if not any(trace in text for text in before.values())]
    store.snapshot(tmp_path / "old.parquet")
    old = [batch for _, batch in store.stream()] + list(store.late_events())

    receipt = {
        "user": lambda: store.delete(mine),
        "item": lambda: store.forget(mine, item_id=ITEM),
        "time": lambda: store.forget(mine, before_ms=NOW),
    }[what]()
    assert receipt.num_events >= len(table)
    assert where(readings(store, mine, tmp_path), looked_for) == set()

    other.bury(store.tombstones())
    other.restore(tmp_path / "old.parquet")
    assert where(readings(other, mine, tmp_path), looked_for) == set()
    for batch in old:
        for each in (store, other):
            each.apply_many(pa.Table.from_batches([batch]))
    assert set(store.apply_many(table)) == set(other.apply_many(table)) == {Outcome.ERASED}
    for each in (store, other):
        assert where(readings(each, mine, tmp_path), looked_for) == set()
    assert other.get_many(["u0", "u1", "u2"]) == store.get_many(["u0", "u1", "u2"])
