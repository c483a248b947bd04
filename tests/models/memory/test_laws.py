"""The laws of the algebra, each compared byte for byte."""

from __future__ import annotations

import doctest
from functools import reduce

import numpy as np
import pytest
from hypothesis import given

from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import EMPTY, State, encode, fold, lift, merge, update, view
from models.memory import state as state_module
from tests.models.memory.strategies import (
    MEMORY,
    ORIGIN_MS,
    SPEC,
    few,
    permuted,
    records,
    sharded,
    some,
)


def bytes_of(state: State) -> bytes:
    return encode(state, SPEC)


def joined(parts: list[State]) -> State:
    return reduce(lambda a, b: merge(a, b, SPEC), parts, EMPTY)


@few
@given(records())
def test_the_empty_state_is_the_identity(events: Interactions) -> None:
    state = fold(events, SPEC)
    assert bytes_of(merge(state, EMPTY, SPEC)) == bytes_of(state)
    assert bytes_of(merge(EMPTY, state, SPEC)) == bytes_of(state)


@some
@given(sharded())
def test_merge_is_commutative(split: tuple[Interactions, list[Interactions]]) -> None:
    a, b = (fold(part, SPEC) for part in split[1][:2])
    assert bytes_of(merge(a, b, SPEC)) == bytes_of(merge(b, a, SPEC))


@some
@given(sharded())
def test_merge_is_associative(split: tuple[Interactions, list[Interactions]]) -> None:
    a, b, c = (fold(part, SPEC) for part in split[1][:3])
    left = merge(merge(a, b, SPEC), c, SPEC)
    assert bytes_of(left) == bytes_of(merge(a, merge(b, c, SPEC), SPEC))


@some
@given(permuted())
def test_any_order_gives_the_same_bytes(both: tuple[Interactions, Interactions]) -> None:
    events, shuffled = both
    assert bytes_of(fold(events, SPEC)) == bytes_of(fold(shuffled, SPEC))


@some
@given(sharded())
def test_any_split_gives_the_whole(split: tuple[Interactions, list[Interactions]]) -> None:
    events, parts = split
    assert bytes_of(joined([fold(part, SPEC) for part in parts])) == bytes_of(fold(events, SPEC))


@some
@given(records())
def test_one_at_a_time_is_the_fold(events: Interactions) -> None:
    state = EMPTY
    for place in range(len(events)):
        state = update(state, events[place : place + 1], SPEC)
    assert bytes_of(state) == bytes_of(fold(events, SPEC))
    assert state == fold(events, SPEC)


@few
@given(records(min_size=1))
def test_merge_refuses_states_that_share_an_event(events: Interactions) -> None:
    state = fold(events, SPEC)
    kept = state.ring if len(state.ring) else state.shown
    with pytest.raises(ValueError, match="an event occurs twice"):
        merge(state, lift(kept[-1:], SPEC), SPEC)


def test_a_repeated_event_is_refused_even_at_another_time() -> None:
    events = np.zeros(2, INTERACTION)
    events["event"], events["ts"] = 7, [ORIGIN_MS, ORIGIN_MS + 1]
    with pytest.raises(ValueError, match="an event occurs twice"):
        fold(events, SPEC)


def test_lift_takes_exactly_one_event() -> None:
    with pytest.raises(ValueError, match="lift takes one event, not 2"):
        lift(np.zeros(2, INTERACTION), SPEC)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("ts", -1, "tiles begin at 1970"),
        ("ts", 1 << 60, "tiles begin at 1970"),
        ("interest", SPEC.num_interests, "the spec keeps 4"),
    ],
)
def test_what_no_tile_can_hold_is_refused(field: str, value: int, match: str) -> None:
    event = np.zeros(1, INTERACTION)
    event[field] = value
    with pytest.raises(ValueError, match=match):
        fold(event, SPEC)


@few
@given(records(min_size=2))
def test_states_are_values(events: Interactions) -> None:
    given_events = events.copy()
    a, b = fold(events[:1], SPEC), fold(events[1:], SPEC)
    before = bytes_of(a), bytes_of(b)
    for state in (a, b, merge(a, b, SPEC), EMPTY):
        for array in (state.ring, state.tiles):
            assert not array.flags.writeable
    assert (bytes_of(a), bytes_of(b)) == before
    assert events.tobytes() == given_events.tobytes()
    events["ts"] = 0  # the caller's array stays the caller's
    assert bytes_of(b) == before[1]


@some
@given(records(min_size=1))
def test_a_silent_counter_strictly_falls(events: Interactions) -> None:
    state = fold(events, SPEC)
    now = int(events["ts"].max())
    waits = [0, 60_000, 3_600_000, 86_400_000, 5 * 86_400_000]
    counts = np.stack([view(state, now_ms=now + w, spec=MEMORY).counts for w in waits])
    fell = counts[1:] < counts[:-1]
    assert (fell | (counts[:-1] < 1e-300)).all()  # next to nothing has no digits left to lose


@pytest.mark.parametrize("minute", [0, 1, 30, 59])
def test_half_is_left_after_one_half_life(minute: int) -> None:
    # The event stands for its tile's middle; while `now` is inside the tile, for the middle of
    # what has passed of it. Over one half-life H the age so grows by H less at most half a hop:
    # the ratio lies within [1/2, 1/2 * 2^(hop / 2H)], and is exactly 1/2 once the tile is over.
    hop, half_life = SPEC.levels[0].hop, MEMORY.view.half_lives[1]
    event = np.zeros(1, INTERACTION)
    event["ts"], event["action"] = ORIGIN_MS // hop * hop + minute * 60_000, ACTIONS["view"].code
    state = lift(event, SPEC)

    def count(now_ms: int) -> float:
        return float(view(state, now_ms=now_ms, spec=MEMORY).counts[0, 1])

    seen = int(event["ts"][0]) + 1
    over = seen + hop
    assert 0.5 <= count(seen + half_life) / count(seen) <= 0.5 * 2 ** (hop / half_life / 2) + 1e-12
    assert count(over + half_life) / count(over) == pytest.approx(0.5, rel=1e-12)


def test_the_example_of_the_docstring_holds() -> None:
    assert doctest.testmod(state_module) == (0, 9)
