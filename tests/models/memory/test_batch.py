"""States of many users at once: the bytes of `encode(fold(...))`, whatever a user did."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import (
    Fact,
    Histories,
    Source,
    StateSpec,
    TileLevel,
    decode,
    encode,
    fold,
    states,
)
from models.memory.batch import MOST
from models.memory.spec import HOUR_MS
from tests.models.memory.strategies import ORIGIN_MS, SPEC, one_fact, records, some

HOURS = TileLevel(hop=HOUR_MS, keep=1)
DAYS = TileLevel(hop=DAY_MS, keep=2)
SPECS = (
    SPEC,
    StateSpec(ring=2, shown=0, refused=0, num_interests=4, levels=(HOURS,), facts=1),
    StateSpec(ring=2, shown=1, refused=1, num_interests=4, levels=(HOURS, DAYS), facts=2),
    StateSpec(ring=1, shown=2, refused=0, num_interests=4, levels=(HOURS, DAYS)),
    StateSpec(num_interests=4),
)
CODES = [ACTIONS[name].code for name in ("view", "impression", "impression", "dismiss", "state")]


def joined(users: list[Interactions]) -> Histories:
    """Histories of some users; each one's events in any order."""
    users = [events[np.lexsort((events["event"], events["ts"]))] for events in users]
    interactions = np.concatenate([np.zeros(0, INTERACTION), *users])
    return Histories(
        users=pa.array([f"u{place}" for place in range(len(users))], pa.string()),
        offsets=np.cumsum([0, *map(len, users)]),
        interactions=interactions,
        arrived=interactions["ts"].copy(),
    )


def one_by_one(stored: Histories, said: list[list[Fact]], spec: StateSpec) -> list[bytes]:
    return [
        encode(fold(stored.interactions[low:high], spec, facts), spec)
        for (low, high), facts in zip(pairwise(stored.offsets.tolist()), said, strict=True)
    ]


@st.composite
def users(draw: st.DrawFn) -> Interactions:
    """One user's events: of any kind, of one kind only, facts between them, or none."""
    events = draw(st.one_of(records(), records(max_size=80), st.just(np.zeros(0, INTERACTION))))
    if draw(st.booleans()):
        events["action"] = draw(st.sampled_from(CODES))
    elif draw(st.booleans()):
        events["action"][draw(st.integers(0, 3)) :: 4] = ACTIONS["state"].code
    if draw(st.booleans()):
        events["event"] = np.arange(len(events))  # keys that other users have as well
    return events


worlds = st.lists(st.tuples(users(), st.lists(one_fact(), max_size=4)), max_size=6)
sizes = st.sampled_from([1, 5, 30, MOST])


@some
@given(worlds, st.sampled_from(SPECS), sizes)
def test_the_bytes_are_those_of_each_user_alone(
    world: list[tuple[Interactions, list[Fact]]], spec: StateSpec, most: int
) -> None:
    stored, said = joined([events for events, _ in world]), [facts for _, facts in world]
    found = states(stored, said, spec, most=most)
    assert found.type == pa.binary()
    assert found.to_pylist() == one_by_one(stored, said, spec)


def life(rng: np.random.Generator, num: int) -> Interactions:
    events = np.zeros(num, INTERACTION)
    scale = rng.choice([HOUR_MS, DAY_MS, 900 * DAY_MS])
    events["ts"] = ORIGIN_MS + rng.integers(0, scale, num) // 60_000 * 60_000  # times that tie
    for name in ("event", "item", "session"):
        events[name] = rng.integers(1, 2**64, num, np.uint64)
    events["value"] = rng.choice([0.0, 1.0, 2.5], num)
    events["interest"] = rng.zipf(1.5, num) % 64
    kinds = CODES[: rng.integers(1, len(CODES), endpoint=True)]
    events["action"] = rng.choice(kinds, num)
    return events


@pytest.mark.parametrize("most", [2_000, MOST])
def test_many_small_users_and_a_few_over_every_capacity(most: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.append(rng.zipf(1.6, 800) % 300, [0, 4_000, 9_000]))
    stored = joined([life(rng, num) for num in lengths])
    said = [
        [Fact("s", str(n), Source.EXPLICIT, n, n, None, n) for n in range(rng.integers(0, 12))]
        if rng.random() < 0.05
        else []
        for _ in lengths
    ]
    spec = StateSpec()
    found = states(stored, said, spec, most=most)
    ends = np.cumsum([0, *map(len, found.chunks)])
    size = np.add.reduceat(lengths + list(map(len, said)) + 1, ends[:-1])
    assert ((size <= most) | (np.diff(ends) == 1)).all()
    assert (found.num_chunks > 1) == (most < len(stored.interactions))
    blobs = found.to_pylist()
    assert blobs == one_by_one(stored, said, spec)
    kept = [decode(blob, spec) for blob in blobs]
    assert {spec.ring} == {max(len(one.ring) for one in kept)}
    assert {spec.shown} == {max(len(one.shown) for one in kept)}
    assert {spec.refused} == {max(len(one.refused) for one in kept)}


def test_nobody_has_no_states() -> None:
    assert states(joined([]), [], SPEC).to_pylist() == []


def test_an_event_of_one_user_twice_is_refused() -> None:
    events = np.zeros(2, INTERACTION)
    events["ts"], events["event"] = [ORIGIN_MS, ORIGIN_MS + 1], 7
    apart = joined([events[:1], events[1:]])
    assert states(apart, [[], []], SPEC).to_pylist() == one_by_one(apart, [[], []], SPEC)
    with pytest.raises(ValueError, match="occurs twice"):
        states(joined([events]), [[]], SPEC)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("ts", -1, "begin at 1970"), ("interest", SPEC.num_interests, "num_interests")],
)
def test_what_fits_into_no_tile_is_refused(field: str, value: int, error: str) -> None:
    events = np.zeros(3, INTERACTION)
    events["ts"], events["event"] = ORIGIN_MS, [1, 2, 3]
    events[field][1] = value
    with pytest.raises(ValueError, match=error):
        states(joined([events[:1], events[1:]]), [[], []], SPEC)


def test_facts_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="facts of 1 users for 0 histories"):
        states(joined([]), [[]], SPEC)
