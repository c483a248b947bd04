"""The ring: the last N interactions by `(ts, event)`. Union, keep the top N."""

from __future__ import annotations

import numpy as np

from models.events import INTERACTION, Interactions


def canonical(interactions: Interactions) -> Interactions:
    """A copy in the one order of all: by time, ties by event key.

    Raises:
        ValueError: when two records are of one event; a store or a batch build removes
            duplicates before memory sees them.
    """
    order = np.lexsort((interactions["event"], interactions["ts"]))
    ordered = interactions[order]
    # Keys are compared over the whole set: a repeated event may carry another time.
    if len(np.unique(ordered["event"])) != len(ordered):
        raise ValueError(
            "an event occurs twice; memory is over distinct events, so remove duplicates by "
            "(user_id, event_id) first"
        )
    return ordered


def empty() -> Interactions:
    """A ring of nothing."""
    return np.zeros(0, INTERACTION)


def merge(a: Interactions, b: Interactions, *, capacity: int) -> Interactions:
    """The last `capacity` of both, in canonical order.

    Raises:
        ValueError: when both hold the same event.
    """
    return canonical(np.concatenate([a, b]))[-capacity:]
