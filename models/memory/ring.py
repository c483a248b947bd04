"""Rings: the last N interactions of one kind by `(ts, event)`. Union, keep the top N."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.events import ACTIONS, INTERACTION, POLARITY, STATE, Interactions
from models.memory.spec import StateSpec

IMPRESSION = ACTIONS["impression"].code
WHOLE = np.dtype((np.void, INTERACTION.itemsize))
"""A record as it is: arrays of such are joined at once, those of fields one by one."""
TWICE = (
    "an event occurs twice; memory is over distinct events, so remove duplicates by "
    "(user_id, event_id) first"
)


def canonical(interactions: Interactions) -> Interactions:
    """A copy in the one order of all: by time, ties by event key.

    Raises:
        ValueError: when two records are of one event; a store or a batch build removes
            duplicates before memory sees them.
    """
    ts, events = (np.ascontiguousarray(interactions[name]) for name in ("ts", "event"))
    if (ts[1:] > ts[:-1]).all():  # as events mostly come: one after the other
        ordered = interactions.copy()
    else:
        # `take` moves records whole, where an index would copy them field by field.
        ordered = interactions.take(np.lexsort((events, ts)))
    # Keys are compared over the whole set: a repeated event may carry another time.
    keys = np.sort(events)
    if (keys[1:] == keys[:-1]).any():
        raise ValueError(TWICE)
    return ordered


def empty() -> Interactions:
    """A ring of nothing."""
    return np.zeros(0, INTERACTION)


def merge(a: Interactions, b: Interactions, *, capacity: int) -> Interactions:
    """The last `capacity` of both, in canonical order.

    Raises:
        ValueError: when both hold the same event.
    """
    if not len(a) or not len(b):
        return a if len(a) else b
    both = np.concatenate((a.view(WHOLE), b.view(WHOLE))).view(INTERACTION)
    return canonical(both)[-capacity:]


def last(ordered: Interactions, chosen: NDArray[np.bool_], capacity: int) -> Interactions:
    """A copy of the last `capacity` of those `(N,)` that are chosen."""
    places = chosen.nonzero()[0]
    kept: Interactions = ordered.take(places[max(len(places) - capacity, 0) :])
    return kept


def is_shown(interactions: Interactions, spec: StateSpec) -> NDArray[np.bool_]:
    """`(N,)` which interactions are impressions that a spec keeps apart from the ring."""
    if not spec.shown:
        return np.zeros(len(interactions), bool)
    apart: NDArray[np.bool_] = interactions["action"] == IMPRESSION
    return apart


def is_refused(interactions: Interactions) -> NDArray[np.bool_]:
    """`(N,)` which interactions say no."""
    refused: NDArray[np.bool_] = POLARITY[interactions["action"]] < 0
    return refused


def is_said(interactions: Interactions) -> NDArray[np.bool_]:
    """`(N,)` which records are of events that say a fact."""
    said: NDArray[np.bool_] = interactions["action"] == ACTIONS[STATE].code
    return said


def without_facts(interactions: Interactions) -> Interactions:
    """All but the records of events that say a fact: those are no interactions."""
    said = is_said(interactions)
    return interactions[~said] if said.any() else interactions
