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

from collections.abc import Iterable
from dataclasses import dataclass

import models.memory.facts as facts_cell
import models.memory.ring as ring
import models.memory.tiles as counted
from models.events import Interactions
from models.memory.facts import EMPTY_FACTS, Fact, Facts
from models.memory.spec import StateSpec
from models.memory.tiles import Tiles


@dataclass(frozen=True, eq=False)
class State:
    """What is kept of one key's events. Arrays are read-only and in canonical order."""

    ring: Interactions
    """`(n,)` with n at most `StateSpec.ring`, oldest first; without impressions if those are
    kept apart."""
    shown: Interactions
    """`(s,)` the last impressions, at most `StateSpec.shown`."""
    refused: Interactions
    """`(r,)` the last refusals, at most `StateSpec.refused`; the recent ones are in the ring
    too."""
    tiles: Tiles
    """`(m,)` counts of all interactions, sorted by key."""
    facts: Facts = EMPTY_FACTS
    """What was said, in canonical order."""

    def __post_init__(self) -> None:
        for array in self._arrays:
            array.setflags(write=False)

    @property
    def _arrays(self) -> tuple[Interactions, Interactions, Interactions, Tiles]:
        return self.ring, self.shown, self.refused, self.tiles

    @property
    def newest_ms(self) -> int:
        """Time of the newest interaction kept singly, or of the newest fact; -1 for none."""
        rings = (self.ring["ts"][-1:], self.shown["ts"][-1:], self.refused["ts"][-1:])
        said = (fact.said_ms for fact in self.facts)
        return max([-1, *(int(ts[0]) for ts in rings if len(ts)), *said])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, State)
            and self.facts == other.facts
            and all(
                a.tobytes() == b.tobytes() for a, b in zip(self._arrays, other._arrays, strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]  # equality is by content, identity is no key

    def __bool__(self) -> bool:
        return len(self.tiles) > 0 or len(self.facts) > 0


EMPTY = State(ring.empty(), ring.empty(), ring.empty(), counted.empty())


def fold(interactions: Interactions, spec: StateSpec, facts: Iterable[Fact] = ()) -> State:
    """The state of a set of events `(N,)`, in any order, and of what some of them say.

    Args:
        interactions: records of `models.events.encode`. Those that say a fact are left out here:
            `models.memory.facts.facts_of` reads them from the same table.
        facts: of the same events.

    Raises:
        ValueError: when an event occurs twice.
    """
    said = facts_cell.merge(facts, (), spec.facts)
    interactions = ring.without_facts(interactions) if len(interactions) else ring.empty()
    if not len(interactions):
        return State(*EMPTY._arrays, said) if said else EMPTY
    ordered = ring.canonical(interactions)
    shown = ring.is_shown(ordered, spec)
    return State(
        ring.last(ordered, ~shown, spec.ring),
        ring.last(ordered, shown, spec.shown),
        ring.last(ordered, ring.is_refused(ordered), spec.refused),
        counted.fold(ordered, spec),
        said,
    )


def lift(interaction: Interactions, spec: StateSpec, facts: Iterable[Fact] = ()) -> State:
    """The state of one event, given as an array of length one, with what it says."""
    if len(interaction) != 1:
        raise ValueError(f"lift takes one event, not {len(interaction)}; fold takes many")
    return fold(interaction, spec, facts)


def merge(a: State, b: State, spec: StateSpec) -> State:
    """The state of the union of two disjoint sets of events.

    Raises:
        ValueError: when two rings share an event, so that the sets are not disjoint.
    """
    if not a or not b:
        return a or b
    return State(
        ring.merge(a.ring, b.ring, capacity=spec.ring),
        ring.merge(a.shown, b.shown, capacity=spec.shown),
        ring.merge(a.refused, b.refused, capacity=spec.refused),
        counted.merge(a.tiles, b.tiles, spec),
        facts_cell.merge(a.facts, b.facts, spec.facts),
    )


def update(
    state: State, interaction: Interactions, spec: StateSpec, facts: Iterable[Fact] = ()
) -> State:
    """`merge(state, lift(interaction))`: that online is batch is a definition, not a hope."""
    return merge(state, lift(interaction, spec, facts), spec)
