"""Small worlds for the laws of memory: few actions, items, sessions and interests, any times.

Times span minutes to years and tie often; event keys use all 64 bits and are distinct.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import Fact, MemorySpec, Source, StateSpec, TileLevel, ViewSpec
from models.memory.histories import Histories
from models.memory.spec import HOUR_MS

SPEC = StateSpec(
    shown=5,
    refused=3,
    ring=8,
    num_interests=4,
    levels=(
        TileLevel(hop=HOUR_MS, keep=4),
        TileLevel(hop=DAY_MS, keep=5),
        TileLevel(hop=30 * DAY_MS, keep=4),
    ),
)
VIEW = ViewSpec(
    actions=("view", "purchase", "dismiss"),
    half_lives=(6 * HOUR_MS, 7 * DAY_MS, 90 * DAY_MS),
    fast=3 * DAY_MS,
    slow=60 * DAY_MS,
    session_gap=HOUR_MS // 2,
)
MEMORY = MemorySpec(state=SPEC, view=VIEW)
ORIGIN_MS = 1_700_000_000_000
"""2023-11-14; no multiple of an hour, so that tiles begin between events."""

CODES = [ACTIONS[name].code for name in ("view", "purchase", "dismiss", "search", "impression")]

few = settings(max_examples=15, deadline=None)
some = settings(max_examples=30, deadline=None)

offsets_ms = st.one_of(
    st.integers(0, 3).map(lambda n: n * 60_000),
    st.integers(0, 300).map(lambda n: n * 60_000),
    st.integers(0, 20).map(lambda n: n * HOUR_MS),
    st.integers(0, 10 * DAY_MS),
    st.integers(0, 3 * 365).map(lambda n: n * DAY_MS),
)
"""Milliseconds after `ORIGIN_MS`: minutes to years, round numbers so that ties occur."""

_records = st.tuples(
    offsets_ms.map(lambda offset: ORIGIN_MS + offset),
    st.one_of(st.integers(1, 200), st.integers(1, 2**64 - 1)),
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.integers(0, SPEC.num_interests - 1),
    st.sampled_from(CODES),
)


def scattered(seed: int, max_size: int) -> Interactions:
    """Distinct interactions, 6 to `max_size`, over every scale of time at once."""
    rng = np.random.default_rng(seed)
    size = rng.integers(6, max_size, endpoint=True)
    scales = np.array([60_000, HOUR_MS // 3, HOUR_MS, DAY_MS, 30 * DAY_MS])
    events = np.zeros(size, INTERACTION)
    # Backwards from one moment, so that every level of tiles has something to keep.
    events["ts"] = ORIGIN_MS - rng.choice(scales, size) * rng.integers(0, 13, size)
    events["event"] = rng.integers(1, 2**64, size, np.uint64)  # distinct but once in 10^16
    events["item"] = rng.integers(0, 6, size)
    events["session"] = rng.integers(0, 4, size)
    events["value"] = rng.choice([0.0, 1.0, 2.5], size)
    events["interest"] = rng.integers(0, SPEC.num_interests, size)
    events["action"] = rng.choice(CODES, size)
    return events


def records(min_size: int = 0, max_size: int = 24) -> st.SearchStrategy[Interactions]:
    """Arrays of distinct interactions `(N,)`, in no order.

    Few ones drawn field by field, which shrink to a readable example, or many from a seed: left
    alone, hypothesis seldom fills a ring or two levels of tiles.
    """
    few_drawn = st.lists(_records, min_size=min_size, max_size=4, unique_by=lambda r: r[1])
    by_field = few_drawn.map(lambda rows: np.array(rows, INTERACTION))
    by_seed = st.builds(scattered, st.sampled_from(range(200)), st.just(max_size))
    return st.one_of(by_field, by_seed, by_seed)


@st.composite
def permuted(draw: st.DrawFn) -> tuple[Interactions, Interactions]:
    """Interactions, and the same ones in another order."""
    events = draw(records())
    order = draw(st.permutations(range(len(events))))
    return events, events[np.asarray(order, np.int64)]


@st.composite
def sharded(draw: st.DrawFn) -> tuple[Interactions, list[Interactions]]:
    """Interactions, and any split of them into up to four parts, some of them empty."""
    events = draw(records())
    shard = draw(st.lists(st.integers(0, 3), min_size=len(events), max_size=len(events)))
    return events, [events[np.asarray(shard, np.int64) == part] for part in range(4)]


@st.composite
def arriving(draw: st.DrawFn, max_size: int = 16) -> tuple[Interactions, np.ndarray]:
    """One user's interactions by `(ts, event)` and the arrival of each, at or after its `ts`."""
    events = draw(records(min_size=1, max_size=max_size))
    events = events[np.lexsort((events["event"], events["ts"]))]
    delays = st.one_of(st.just(0), offsets_ms)
    waited = draw(st.lists(delays, min_size=len(events), max_size=len(events)))
    return events, events["ts"] + np.asarray(waited, np.int64)


@st.composite
def histories(draw: st.DrawFn) -> Histories:
    """Histories of one to four users."""
    users = draw(st.lists(arriving(), min_size=1, max_size=4))
    lengths = [len(events) for events, _ in users]
    return Histories(
        users=pa.array([f"u{place}" for place in range(len(users))]),
        offsets=np.cumsum([0, *lengths]),
        interactions=np.concatenate([events for events, _ in users]),
        arrived=np.concatenate([arrived for _, arrived in users]),
    )


@st.composite
def one_fact(draw: st.DrawFn) -> Fact:
    """Few slots and moments, so that facts meet; every event says one thing, sent once or twice."""
    event = draw(st.integers(0, 40))
    said = (event * 7) % 11
    return Fact(
        slot=("budget", "skills")[event % 2],
        value=None if event % 5 == 0 else str(event),
        source=Source(1 + (event // 2) % 3),
        said_ms=said,
        known_ms=said + draw(st.integers(0, 6)),
        until_ms=said + 3 if event % 4 == 0 else None,
        event=event,
    )


def moments(arrived: np.ndarray) -> st.SearchStrategy[int]:
    """As-of times, often exactly an arrival: "before" is strict."""
    near = st.tuples(st.sampled_from(arrived.tolist()), st.integers(-1, 1)).map(sum)
    return st.one_of(near, offsets_ms.map(lambda offset: ORIGIN_MS + offset))
