"""The memory of one key: a value with `lift`, `merge` and nothing hidden.

States form a commutative monoid over sets of *distinct* events: `EMPTY` is its identity, `merge`
joins the states of disjoint sets, and `update(s, e) = merge(s, lift(e))` by definition. So the fold
of a batch and a thousand single updates, in any order and any split, give the same bytes.

>>> from models.memory import StateSpec, fold, merge
>>> from models.events import INTERACTION
>>> import numpy as np
>>> spec = StateSpec(ring=2)
>>> day = np.zeros(3, INTERACTION)
>>> day["ts"], day["event"], day["action"] = [10, 30, 20], [1, 2, 3], 11
>>> whole = fold(day, spec)
>>> whole.ring["ts"].tolist()
[20, 30]
>>> whole == merge(fold(day[:1], spec), fold(day[1:], spec), spec)
True
"""

from __future__ import annotations

from dataclasses import dataclass

import models.memory.ring as ring
import models.memory.tiles as tiles
from models.events import Interactions
from models.memory.spec import StateSpec


@dataclass(frozen=True, eq=False)
class State:
    """What is kept of one key's events. Both arrays are read-only and in canonical order."""

    ring: Interactions
    """`(n,)` with n at most `StateSpec.ring`, oldest first."""
    tiles: tiles.Tiles
    """`(m,)` counts, sorted by key."""

    def __post_init__(self) -> None:
        self.ring.setflags(write=False)
        self.tiles.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, State)
            and self.ring.tobytes() == other.ring.tobytes()
            and self.tiles.tobytes() == other.tiles.tobytes()
        )

    __hash__ = None  # type: ignore[assignment]  # equality is by content, identity is no key

    def __bool__(self) -> bool:
        return len(self.ring) > 0


EMPTY = State(ring.empty(), tiles.empty())


def fold(interactions: Interactions, spec: StateSpec) -> State:
    """The state of a set of events `(N,)`, in any order.

    Raises:
        ValueError: when an event occurs twice.
    """
    if not len(interactions):
        return EMPTY
    ordered = ring.canonical(interactions)
    return State(ordered[-spec.ring :].copy(), tiles.fold(ordered, spec))


def lift(interaction: Interactions, spec: StateSpec) -> State:
    """The state of one event, given as an array of length one."""
    if len(interaction) != 1:
        raise ValueError(f"lift takes one event, not {len(interaction)}; fold takes many")
    return fold(interaction, spec)


def merge(a: State, b: State, spec: StateSpec) -> State:
    """The state of the union of two disjoint sets of events.

    Raises:
        ValueError: when the two rings share an event, so that the sets are not disjoint.
    """
    if not a or not b:
        return a or b
    return State(
        ring.merge(a.ring, b.ring, capacity=spec.ring),
        tiles.merge(a.tiles, b.tiles, spec),
    )


def update(state: State, interaction: Interactions, spec: StateSpec) -> State:
    """`merge(state, lift(interaction))`: that online is batch is a definition, not a hope."""
    return merge(state, lift(interaction, spec), spec)
