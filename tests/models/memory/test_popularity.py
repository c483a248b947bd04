"""Popularity against a loop over its events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.memory import Popularity
from tests.models.memory.strategies import few, some

NUM_ITEMS = 4
HALF_LIVES = (DAY_MS, 7 * DAY_MS)
DAY = 20_000
"""Days since 1970; the events lie within the 30 days after."""

events_of_items = st.lists(
    st.tuples(st.integers(DAY * DAY_MS, (DAY + 30) * DAY_MS - 1), st.integers(0, NUM_ITEMS - 1)),
    max_size=20,
)
Pairs = list[tuple[int, int]]


def popularity(pairs: Pairs) -> Popularity:
    ts, items = np.array(pairs, np.int64).reshape(-1, 2).T
    return Popularity.fold(ts, items, NUM_ITEMS)


def read_slowly(pairs: Pairs, now_ms: int) -> list[list[float]]:
    """Each event of a day before today counts from noon of its day to the last midnight."""
    today = now_ms // DAY_MS
    total = [[0.0 for _ in HALF_LIVES] for _ in range(NUM_ITEMS)]
    for ts, item in pairs:
        if ts // DAY_MS < today:
            age_days = today - ts // DAY_MS - 0.5
            for place, half_life in enumerate(HALF_LIVES):
                total[item][place] += 0.5 ** (age_days * DAY_MS / half_life)
    return total


@some
@given(events_of_items, st.integers((DAY - 2) * DAY_MS, (DAY + 40) * DAY_MS))
def test_reading_is_what_a_loop_finds(pairs: Pairs, now_ms: int) -> None:
    read = popularity(pairs).read(now_ms, HALF_LIVES)
    assert read.shape == (NUM_ITEMS, len(HALF_LIVES))
    np.testing.assert_allclose(read, read_slowly(pairs, now_ms), rtol=1e-5)


@some
@given(events_of_items, st.integers(DAY * DAY_MS, (DAY + 31) * DAY_MS), st.sampled_from([7, 60]))
def test_a_finer_step_sees_all_but_the_step_going_on(
    pairs: Pairs, now_ms: int, minutes: int
) -> None:
    step = minutes * 60_000
    ts, items = np.array(pairs, np.int64).reshape(-1, 2).T
    read = Popularity.fold(ts, items, NUM_ITEMS, step).read(now_ms, HALF_LIVES)
    expected = np.zeros((NUM_ITEMS, len(HALF_LIVES)))
    for at, item in pairs:
        if at // step < now_ms // step:
            age = (now_ms // step - at // step - 0.5) * step
            expected[item] += [0.5 ** (age / half_life) for half_life in HALF_LIVES]
    np.testing.assert_allclose(read, expected, rtol=1e-5)


def test_other_steps_do_not_add_up() -> None:
    day, hour = (
        Popularity.fold(np.zeros(1, np.int64), np.zeros(1, np.int64), 1, step)
        for step in (DAY_MS, DAY_MS // 24)
    )
    with pytest.raises(ValueError, match="steps of 86400000 and 3600000 ms differ"):
        day.merge(hour)


@some
@given(events_of_items, events_of_items)
def test_merge_is_the_fold_of_both(a: Pairs, b: Pairs) -> None:
    whole = popularity(a + b)
    for merged in (popularity(a).merge(popularity(b)), popularity(b).merge(popularity(a))):
        assert merged.first == whole.first
        assert merged.counts.tolist() == whole.counts.tolist()


@few
@given(st.permutations([(DAY * DAY_MS + n * DAY_MS // 3, n % NUM_ITEMS) for n in range(9)]))
def test_any_order_gives_the_same_counts(pairs: Pairs) -> None:
    assert popularity(pairs).counts.tolist() == popularity(sorted(pairs)).counts.tolist()


def test_today_is_left_out_until_it_is_over() -> None:
    midnight = DAY * DAY_MS
    seen = popularity([(midnight + 1, 0)])
    assert seen.read(midnight + DAY_MS - 1, HALF_LIVES).sum() == 0
    assert seen.read(midnight + DAY_MS, HALF_LIVES)[0].all()


def test_a_reading_is_the_same_all_day() -> None:
    midnight = DAY * DAY_MS
    seen = popularity([(midnight - 1, 0), (midnight - 3 * DAY_MS, 1)])
    dawn, dusk = (seen.read(now, HALF_LIVES) for now in (midnight, midnight + DAY_MS - 1))
    assert dawn.tobytes() == dusk.tobytes()


def test_half_is_left_after_one_half_life() -> None:
    seen = popularity([(DAY * DAY_MS, 2), ((DAY + 1) * DAY_MS, 2)])
    for place, half_life in enumerate(HALF_LIVES):
        now = (DAY + 5) * DAY_MS
        before, after = (seen.read(t, HALF_LIVES)[2, place] for t in (now, now + half_life))
        assert after / before == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("item", [-1, NUM_ITEMS])
def test_an_item_without_a_place_is_refused(item: int) -> None:
    """It would count for a neighbour on another day."""
    with pytest.raises(ValueError, match="places are 0 to 3"):
        popularity([(DAY * DAY_MS, 1), ((DAY + 1) * DAY_MS, item)])
