"""The memory in slow, plain Python: what the fast path must agree with.

No numpy and no cleverness: events are tuples, tiles a dict, and each event is looked at alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from math import inf, log2, sqrt
from typing import NamedTuple

from models.config import DAY_MS
from models.events import ACTIONS, POLARITY, Interactions
from models.memory import MemorySpec, StateSpec


class Event(NamedTuple):
    ts: int
    event: int
    item: int
    session: int
    value: float
    interest: int
    action: int


class Atom(NamedTuple):
    """The time that an event is known to lie in, what it was, and its key where it is alone."""

    start: int
    end: int
    action: int
    interest: int
    event: int = 0


def events_of(interactions: Interactions) -> list[Event]:
    return [Event(*record) for record in interactions.tolist()]


def is_shown(event: Event, spec: StateSpec) -> bool:
    return spec.shown > 0 and event.action == ACTIONS["impression"].code


def ring(events: list[Event], spec: StateSpec) -> list[Event]:
    return sorted(e for e in events if not is_shown(e, spec))[-spec.ring :]


def shown(events: list[Event], spec: StateSpec) -> list[Event]:
    found = sorted(e for e in events if is_shown(e, spec))
    return found[len(found) - min(spec.shown, len(found)) :]


def refused(events: list[Event], spec: StateSpec) -> list[Event]:
    found = sorted(e for e in events if POLARITY[e.action] < 0)
    return found[len(found) - min(spec.refused, len(found)) :]


def newest_index(events: list[Event], hop: int) -> int:
    return max(event.ts // hop for event in events)


def tiles(events: list[Event], spec: StateSpec) -> Counter[tuple[int, int, int, int]]:
    """Counts by (level, tile index, action, interest)."""
    counts: Counter[tuple[int, int, int, int]] = Counter()
    for level, (hop, keep) in enumerate((tile.hop, tile.keep) for tile in spec.levels):
        for event in events:
            index = event.ts // hop
            if index > newest_index(events, hop) - keep:
                counts[level, index, event.action, event.interest] += 1
    return counts


def atom(event: Event, events: list[Event], spec: StateSpec) -> Atom | None:
    """An event of a ring as it is; an older one at the finest level that still has it.

    A tile ends where the next finer level begins: what lies after is counted there. It also ends
    with the oldest event of its kind that is in a ring. None when every level forgot the event.
    """
    kept = (shown if is_shown(event, spec) else ring)(events, spec)
    if event in kept:
        return Atom(event.ts, event.ts, event.action, event.interest, event.event)
    cut: float = inf
    for hop, keep in ((tile.hop, tile.keep) for tile in spec.levels):
        index = event.ts // hop
        oldest = newest_index(events, hop) - keep + 1
        if index >= oldest:
            end = int(min((index + 1) * hop, cut, kept[0].ts + 1))
            return Atom(index * hop, end, event.action, event.interest)
        cut = oldest * hop
    return None


def atoms(events: list[Event], spec: StateSpec) -> Counter[Atom]:
    found = (atom(event, events, spec) for event in events)
    return Counter(one for one in found if one is not None)


def age_days(one: Atom, now_ms: int) -> float:
    """From the middle of the part of the atom that has passed."""
    middle = (one.start + min(one.end, now_ms)) / 2
    return max(now_ms - middle, 0.0) / DAY_MS


def weight(days: float, half_life_ms: int) -> Decimal:
    """A decimal, whose exponent has room: no ratio of weights underflows."""
    return Decimal("0.5") ** Decimal(days * DAY_MS / half_life_ms)


def count(counted: Counter[Atom], action: str, *, half_life_ms: int, now_ms: int) -> float:
    return float(
        sum(
            num * weight(age_days(one, now_ms), half_life_ms)
            for one, num in counted.items()
            if one.action == ACTIONS[action].code
        )
    )


def profile(
    counted: Counter[Atom], *, half_life_ms: int, now_ms: int, num_interests: int
) -> list[float]:
    mass: dict[int, Decimal] = defaultdict(Decimal)
    for one, num in counted.items():
        if POLARITY[one.action] > 0:
            mass[one.interest] += num * weight(age_days(one, now_ms), half_life_ms)
    total = sum(mass.values())
    return [float(mass[interest] / total) if total else 0.0 for interest in range(num_interests)]


def effective(counted: Counter[Atom], *, half_life_ms: int, now_ms: int) -> float:
    weights = [
        weight(age_days(one, now_ms), half_life_ms)
        for one, num in counted.items()
        if POLARITY[one.action] > 0
        for _ in range(num)
    ]
    return float(sum(weights) ** 2 / sum(w * w for w in weights)) if weights else 0.0


def cosine_distance(a: list[float], b: list[float]) -> float:
    norm = sqrt(sum(x * x for x in a)) * sqrt(sum(y * y for y in b))
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def entropy(shares: list[float]) -> float:
    return -sum(share * log2(share) for share in shares if share > 0)


def jensen_shannon(a: list[float], b: list[float]) -> float:
    """By entropies: H of the mean less the mean of H, not by divergences as the fast path."""
    middle = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    return entropy(middle) - (entropy(a) + entropy(b)) / 2


def confidence(counted: Counter[Atom], *, now_ms: int, spec: MemorySpec) -> float:
    num = effective(counted, half_life_ms=spec.view.fast, now_ms=now_ms)
    return num / (num + spec.view.drift_prior)


def sessions(events: list[Event], gap_ms: int) -> list[list[Event]]:
    """Events in time order, cut where a new session begins."""
    found: list[list[Event]] = []
    for event in events:
        last = found[-1][-1] if found else None
        if last is None:
            found.append([event])
        elif last.session and event.session:
            if last.session == event.session:
                found[-1].append(event)
            else:
                found.append([event])
        elif event.ts - last.ts <= gap_ms:
            found[-1].append(event)
        else:
            found.append([event])
    return found


def session_ranks(events: list[Event], *, now_ms: int, session: int, gap_ms: int) -> list[int]:
    found = sessions(events, gap_ms)
    if not found:
        return []
    last = found[-1][-1]
    if session and last.session:
        current = session == last.session
    else:
        current = now_ms - last.ts <= gap_ms
    ranks: list[int] = []
    for rank, members in enumerate(reversed(found), start=0 if current else 1):
        ranks += [rank] * len(members)
    return ranks[::-1]
