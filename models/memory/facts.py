"""Facts: what was said or found out about a person, with two clocks.

A fact has the time it was *said* (from when it holds) and the time it became *known* (from when a
reading may use it). A cell of facts is a sorted tuple; `merge` is union and keeps, per slot and
source, the newest few. It is a lattice: commutative, associative, idempotent, the same to the bit.

>>> budget = Fact("budget", "50", Source.EXPLICIT, said_ms=10, known_ms=30, until_ms=None, event=7)
>>> guess = Fact("budget", "90", Source.INFERRED, said_ms=20, known_ms=20, until_ms=None, event=8)
>>> cell = merge((guess,), (budget,), 8)
>>> as_of(cell, event_time_ms=25, known_at_ms=25)["budget"].value  # the explicit one comes late
'90'
>>> as_of(cell, event_time_ms=25, known_at_ms=30)["budget"].value
'50'
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa
import pyarrow.compute as pc

from models.events import STATE, keys64


class Source(IntEnum):
    """Who says a fact: the higher one is believed, even when it is older."""

    INFERRED = 1
    OBSERVED = 2
    EXPLICIT = 3


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing said about one slot."""

    slot: str
    value: str | None
    """Canonical JSON text; None: the slot is withdrawn."""
    source: Source
    said_ms: int
    """From when it holds."""
    known_ms: int
    """From when a reading may use it: when its event arrived."""
    until_ms: int | None
    """From when it holds no more; None: until something else is said."""
    event: int
    """Key of the event that said it, below 2^64."""


Facts = tuple[Fact, ...]
EMPTY_FACTS: Facts = ()


def merge(a: Iterable[Fact], b: Iterable[Fact], keep: int) -> Facts:
    """Union; of each (slot, source) the `keep` newest by `(said_ms, event)`, in canonical order.

    An event that comes with two arrivals (sent again) counts from the first.

    What is pruned is gone for every reading: one of a past time sees, of each slot and source, at
    most the `keep` facts that are newest *today*, those known only later or expired by now among
    them. Whoever needs more asks the store's history of events.

    Raises:
        ValueError: when `keep` is less than one.
    """
    if keep < 1:
        raise ValueError(f"facts: keep {keep} of each slot and source; at least 1 is needed")
    by_key: dict[tuple[str, int, int, int], Fact] = {}
    for fact in sorted((*a, *b), key=_order):
        by_key.setdefault((fact.slot, fact.source, fact.said_ms, fact.event), fact)
    kept: dict[tuple[str, int], list[Fact]] = {}
    for fact in by_key.values():
        kept.setdefault((fact.slot, fact.source), []).append(fact)
    return tuple(fact for newest_last in kept.values() for fact in newest_last[-keep:])


def _order(fact: Fact) -> tuple[str, int, int, int, int, int, str]:
    """The one order of all, total over distinct facts. No fact ends at 0, no JSON is empty."""
    until, value = fact.until_ms or 0, fact.value or ""
    return fact.slot, fact.source, fact.said_ms, fact.event, fact.known_ms, until, value


def as_of(facts: Iterable[Fact], *, event_time_ms: int, known_at_ms: int) -> dict[str, Fact]:
    """What holds at one time according to what was known at another, by slot.

    A fact speaks when `said <= event time < until` and `known <= known at`. Of those that speak
    about a slot the highest `(source, said, event)` holds: explicit beats observed beats inferred,
    and only then does newer beat older. A withdrawal speaks like any fact; where it wins, the slot
    is left out. So "no preference", said by the person, silences a guess made before or after, and
    when a fact for a time is over, what was said before it holds again.

    Args:
        facts: of one person.
        known_at_ms: inclusive. What had arrived strictly before t is `known_at_ms=t - 1`.
    """
    holds: dict[str, Fact] = {}
    for fact in facts:
        over = fact.until_ms is not None and fact.until_ms <= event_time_ms
        if over or fact.said_ms > event_time_ms or fact.known_ms > known_at_ms:
            continue
        other = holds.get(fact.slot)
        if other is None or _rank(other) < _rank(fact):
            holds[fact.slot] = fact
    return {slot: holds[slot] for slot in sorted(holds) if holds[slot].value is not None}


def _rank(fact: Fact) -> tuple[int, int, int]:
    return fact.source, fact.said_ms, fact.event


def history(facts: Iterable[Fact], slot: str) -> Facts:
    """All that is kept of a slot, withdrawn and expired included, the oldest said first."""
    return tuple(sorted((f for f in facts if f.slot == slot), key=lambda f: (f.said_ms, f.event)))


def canonical(text: str) -> str:
    """The one JSON text of a value: keys sorted, no spaces, ASCII.

    Raises:
        ValueError: for a text that is no JSON, has a number beyond float64, or nests too deeply.
    """
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"fact {text[:40]!r} is no JSON value: {error}") from error


def facts_of(table: pa.Table) -> list[Fact]:
    """The facts among validated rows of `SCHEMA`, in row order; other actions are skipped.

    A missing source is explicit; what has no arrival was known when it was said.

    Raises:
        ValueError: for a fact that is no JSON; `models.events.validate` takes such rows out.
    """
    said = table.filter(pc.equal(table["action"], STATE))
    if not len(said):
        return []
    pair = pc.binary_join_element_wise(said["user_id"], said["event_id"], "\0")
    ts, known = (_millis(said[name]) for name in ("ts", "arrived_at"))
    return [
        Fact(
            slot=slot,
            value=None if value is None else canonical(value),
            source=Source[(source or "explicit").upper()],
            said_ms=said_ms,
            known_ms=said_ms if known_ms is None else known_ms,
            until_ms=until_ms,
            event=event,
        )
        for slot, value, source, said_ms, known_ms, until_ms, event in zip(
            *(said[name].to_pylist() for name in ("slot", "fact", "fact_source")),
            ts,
            known,
            _millis(said["valid_until"]),
            keys64(pair).tolist(),
            strict=True,
        )
    ]


def _millis(column: pa.ChunkedArray) -> list[int | None]:
    millis: list[int | None] = column.cast(pa.int64()).to_pylist()
    return millis


def to_bytes(facts: Facts) -> bytes:
    """Canonical bytes: equal cells have equal bytes, and the empty cell has none."""
    if not facts:
        return b""
    rows = [
        [f.slot, f.value, int(f.source), f.said_ms, f.known_ms, f.until_ms, f.event] for f in facts
    ]
    return json.dumps(rows, separators=(",", ":")).encode()


def from_bytes(blob: bytes) -> Facts:
    """The cell behind `to_bytes`.

    Raises:
        ValueError: for bytes that `to_bytes` did not write.
    """
    try:
        rows = json.loads(blob) if blob else []
        return tuple(
            Fact(slot, value, Source(source), *times) for slot, value, source, *times in rows
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"facts are damaged: {error}") from error
