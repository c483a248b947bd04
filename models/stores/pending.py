"""How a state lies in a store: bytes of the codec, and behind them events not folded in yet.

To decode, fold, merge and encode a state costs far more than to keep 39 bytes. So new events are
laid behind it as they come; now and then one folds them all in, and a reading does so for itself.
By the laws of memory nobody can tell: the state is that of the same set of events either way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from models.events import INTERACTION
from models.memory import EMPTY, State, StateSpec, decode, encode, fold, merge
from models.stores.batch import Batch

MOST = 64
"""Events behind a state: more make a reading slower, fewer a write."""

_NUM = struct.Struct("<H")


def pack(state: State, spec: StateSpec) -> bytes:
    """A state with nothing behind it; `EMPTY` has no bytes."""
    return _NUM.pack(0) + encode(state, spec) if state else b""


def unpack(stored: bytes | None, spec: StateSpec) -> State:
    """The state of all that is there; `EMPTY` where nothing is."""
    state, behind = _part(stored, spec)
    return merge(state, fold(np.frombuffer(behind, INTERACTION), spec), spec)


def add(stored: bytes | None, batch: Batch, rows: Sequence[int], spec: StateSpec) -> bytes:
    """The bytes after some new events of a batch.

    What they are made of was checked before: `models.memory.tiles.fold` refuses what cannot be
    folded, and here it might come too late.
    """
    stored, events = stored or _NUM.pack(0), batch.interactions[rows]
    num = _NUM.unpack_from(stored)[0] + len(events)
    facts = [batch.facts[row] for row in rows if row in batch.facts]
    if num <= MOST and not facts:
        return _NUM.pack(num) + stored[_NUM.size :] + events.tobytes()
    state, behind = _part(stored, spec)
    # As bytes: numpy joins records ten times slower.
    new = fold(np.frombuffer(behind + events.tobytes(), INTERACTION), spec, facts)
    return pack(merge(state, new, spec), spec)


def _part(stored: bytes | None, spec: StateSpec) -> tuple[State, bytes]:
    """The state as it was folded last, and the records behind it."""
    if not stored:
        return EMPTY, b""
    end = len(stored) - _NUM.unpack_from(stored)[0] * INTERACTION.itemsize
    blob = stored[_NUM.size : end]
    return decode(blob, spec) if blob else EMPTY, stored[end:]
