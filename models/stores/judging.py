"""What becomes of a user's events and state, whatever store keeps them: pure functions.

`judge` tells new events from known, late and forgotten ones; `tombstone_of` says what a forgetting
leaves behind, `without` what it leaves of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from models.events import Interactions, key64
from models.memory import EMPTY, State, StateSpec, fold
from models.memory import ring as rings
from models.memory.facts import Fact
from models.stores.batch import Batch
from models.stores.protocol import Outcome
from models.stores.tombstones import Graves, item_key, user_key


def judge(
    batch: Batch,
    rows: Sequence[int],
    *,
    stored: AbstractSet[int],
    graves: Graves,
    cutoff_ms: int,
) -> list[Outcome]:
    """One outcome for each of one user's rows of a batch.

    Args:
        rows: of the user, in the order given.
        stored: those of their event keys that are in the history.
        cutoff_ms: an unknown event before it is late.
    """
    seen: set[int] = set()
    outcomes = []
    for row in rows:
        event, ts = batch.events[row], batch.ts[row]
        if graves and graves.covers_one(ts, int(batch.interactions["item"][row])):
            outcomes.append(Outcome.ERASED)
        elif event in seen or event in stored:
            outcomes.append(Outcome.DUPLICATE)
        elif ts < cutoff_ms:
            outcomes.append(Outcome.LATE)
        else:
            outcomes.append(Outcome.ACCEPTED)
            seen.add(event)
    return outcomes


def without(
    state: State,
    history: Interactions,
    graves: Graves,
    *,
    spec: StateSpec,
    facts: Iterable[Fact] = (),
) -> tuple[State, NDArray[np.bool_]]:
    """The state of what the tombstones leave of a history, and which events go.

    Args:
        history: `(N,)` all events that made the state.
        facts: those of the history that the state may have pruned; they are said again when a
            newer one goes.

    Returns:
        The fold of the rest, and `(N,)` whether each event is covered.
    """
    gone = graves.covers(history)
    lost = set(history["event"][gone].tolist())
    left = [f for f in (*state.facts, *facts) if f.event not in lost and f.said_ms > graves.until]
    if not lost and all(fact.said_ms > graves.until for fact in state.facts):
        return state, gone
    return fold(history[~gone], spec, left), gone


def tombstone_of(
    user_id: str,
    history: Interactions,
    graves: Graves,
    *,
    now_ms: int,
    state: State = EMPTY,
    item_id: str | None = None,
    before_ms: int | None = None,
) -> tuple[bytes, int]:
    """The tombstone that a forgetting leaves: of an item, of a time, of everything if neither.

    Events may be a little ahead of the clock; the tombstone covers those as well.

    Raises:
        ValueError: when both are given, or `before_ms` is no time up to now.
    """
    if item_id is not None and before_ms is not None:
        raise ValueError("forget an item or what lies before a time; to do both, call twice")
    if before_ms is not None:
        if not 0 < before_ms <= now_ms:
            raise ValueError(
                f"before_ms {before_ms} is not between 1 and now, {now_ms}; "
                "`delete` forgets everything"
            )
        return user_key(user_id), before_ms - 1
    if item_id is not None:
        item = key64(item_id)
        times = history["ts"][history["item"] == item]
        return item_key(user_id, item), max([now_ms, *times[-1:].tolist()])
    times = history["ts"]
    newest = max([now_ms, state.newest_ms, *times[-1:].tolist()])
    return user_key(user_id), max([newest, graves.until, *graves.items.values()])


def is_lifelong(interactions: Interactions, spec: StateSpec) -> NDArray[np.bool_]:
    """`(N,)` what `MemoryStore.nearest` may find: what the ring is made of."""
    return ~(rings.is_said(interactions) | rings.is_shown(interactions, spec))


def check_recent(recent: int, spec: StateSpec) -> None:
    """Refuses to promise more last interactions than a ring keeps; see `MemoryStore.nearest`."""
    if recent > spec.ring:
        raise ValueError(
            f"the ring keeps {spec.ring} interactions, so the last {recent} are not "
            "there for certain; ask for fewer, or raise `ring` in the state spec and rebuild"
        )
