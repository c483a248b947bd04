"""Baselines against slow oracles that loop over the log for every request and item."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval import baselines
from models.retrieval.baselines import (
    Baseline,
    Interactions,
    ItemToItem,
    Popularity,
    RepeatFrequency,
    Requests,
    Unseen,
)

NUM_ITEMS = 5
FIT_UNTIL = 8
HALF_LIFE = 3.0
Event = tuple[int, int, int, bool]  # user, item, ts, positive
World = tuple[list[Event], list[tuple[int, int]]]

EVENTS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, NUM_ITEMS), st.integers(0, 15), st.booleans()),
    max_size=40,
).map(lambda events: sorted(events, key=lambda event: event[2]))
# User 9 never occurs in the log; users 0 and 9 stand before and after all its users.
REQUESTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 3, 4, 9]), st.integers(FIT_UNTIL, 18)), max_size=12
).map(lambda requests: sorted(requests, key=lambda request: request[1]))
WORLDS = st.tuples(EVENTS, REQUESTS)

BASELINES: dict[str, Callable[[Interactions], Baseline]] = {
    "all time": Popularity,
    "window": lambda log: Popularity(log, window_ms=4),
    "repeat": RepeatFrequency,
    "item to item": lambda log: ItemToItem(log, fit_until=FIT_UNTIL, half_life_ms=HALF_LIFE),
    "unseen": lambda log: Unseen(Popularity(log), log),
}


def log_of(events: list[Event]) -> Interactions:
    user, item, ts, positive = np.array(events, dtype=np.int64).reshape(-1, 4).T
    return Interactions(user, item, ts, positive.astype(np.bool_), NUM_ITEMS)


def requests_of(requests: list[tuple[int, int]]) -> Requests:
    user, as_of = np.array(requests, dtype=np.int64).reshape(-1, 2).T
    return Requests(user, as_of)


def dense(baseline: Baseline, requests: Requests) -> np.ndarray:
    blocks = list(baseline.scores(requests))
    assert all(block.dtype == np.float32 for block in blocks)
    return np.concatenate([np.zeros((0, NUM_ITEMS + 1), dtype=np.float32), *blocks])


def seen(events: list[Event], as_of: int) -> list[Event]:
    return [event for event in events if event[2] < as_of and event[3] and event[1] > 0]


def slow_popularity(events: list[Event], as_of: int, window: int | None) -> list[int]:
    kept = [e for e in seen(events, as_of) if window is None or e[2] >= as_of - window]
    return [sum(e[1] == item for e in kept) for item in range(1, NUM_ITEMS + 1)]


@pytest.mark.parametrize("window", [None, 1, 4])
@given(world=WORLDS)
def test_popularity_counts(world: World, window: int | None) -> None:
    events, requests = world
    actual = dense(Popularity(log_of(events), window_ms=window), requests_of(requests))
    expected = [slow_popularity(events, as_of, window) for _, as_of in requests]
    assert actual[:, 1:].tolist() == expected


@given(world=WORLDS, rows=st.integers(1, 3))
def test_unseen_is_the_other_baseline_without_what_the_user_met(world: World, rows: int) -> None:
    events, requests = world
    log, asked = log_of(events), requests_of(requests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_MAX_ROWS", rows)  # so that rows must follow their block
        actual = dense(Unseen(Popularity(log), log), asked)
    plain = dense(Popularity(log), asked)
    for row, (user, as_of) in enumerate(requests):
        met = {item for who, item, ts, _ in events if who == user and ts < as_of}
        for item in range(1, NUM_ITEMS + 1):
            assert actual[row, item] == (-np.inf if item in met else plain[row, item])


@given(world=WORLDS)
def test_repeat_frequency_ranks_by_count_recency_and_popularity(world: World) -> None:
    events, requests = world
    actual = dense(RepeatFrequency(log_of(events)), requests_of(requests))
    for scores, (user, as_of) in zip(actual, requests, strict=True):
        popular = slow_popularity(events, as_of, None)

        def key(item: int, user: int = user, as_of: int = as_of) -> tuple[int, int]:
            own = [e[2] for e in seen(events, as_of) if e[:2] == (user, item)]
            return len(own), max(own, default=-1)

        keys = {item: (*key(item), popular[item - 1]) for item in range(1, NUM_ITEMS + 1)}
        assert [int(scores[item]) for item in keys] == [count for count, _, _ in keys.values()]
        for one in keys:
            for two in keys:
                if keys[one] > keys[two]:
                    assert scores[one] > scores[two]


def test_repeat_frequency_breaks_ties_by_recency_then_popularity() -> None:
    own = [(1, 1, 1, True), (1, 4, 1, True), (1, 4, 1, True), (1, 2, 3, True), (1, 3, 3, True)]
    others = [(2, 1, 4, True)] * 5 + [(2, 2, 4, True), (2, 5, 4, True)]
    scores = dense(RepeatFrequency(log_of(own + others)), requests_of([(1, 9)]))[0]
    # 4 twice; 2 and 3 once and last, 2 the more popular; 1 once, long ago; 5 only by others.
    assert np.argsort(-scores[1:]).tolist() == [3, 1, 2, 0, 4]


@given(world=WORLDS)
def test_item_to_item_sums_recency_weighted_cosines(world: World) -> None:
    events, requests = world
    actual = dense(BASELINES["item to item"](log_of(events)), requests_of(requests))
    users = {
        item: {e[0] for e in seen(events, FIT_UNTIL) if e[1] == item}
        for item in range(1, NUM_ITEMS + 1)
    }

    def cosine(one: int, two: int) -> float:
        norm = (len(users[one]) * len(users[two])) ** 0.5
        return len(users[one] & users[two]) / norm if norm else 0.0

    expected = [
        [
            sum(
                2 ** -((as_of - ts) / HALF_LIFE) * cosine(other, item)
                for owner, other, ts, _ in seen(events, as_of)
                if owner == user
            )
            for item in users
        ]
        for user, as_of in requests
    ]
    shaped = np.array(expected, dtype=np.float64).reshape(-1, NUM_ITEMS)
    np.testing.assert_allclose(actual[:, 1:], shaped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
@given(world=WORLDS, later=EVENTS)
def test_events_at_or_after_a_request_change_nothing(
    name: str, world: World, later: list[Event]
) -> None:
    events, requests = world
    for user, as_of in requests:
        one = requests_of([(user, as_of)])
        known = [event for event in events if event[2] < as_of]
        future = sorted(
            [e for e in events if e[2] >= as_of] + [(u, i, as_of + t, p) for u, i, t, p in later],
            key=lambda event: event[2],
        )
        before = dense(BASELINES[name](log_of(known)), one)
        after = dense(BASELINES[name](log_of(known + future)), one)
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", BASELINES)
@settings(max_examples=25)
@given(world=WORLDS)
def test_blocks_hold_one_row_a_request_and_never_offer_the_unknown_item(
    name: str, world: World
) -> None:
    events, requests = world
    baseline, asked = BASELINES[name](log_of(events)), requests_of(requests)
    whole = dense(baseline, asked)
    assert whole.shape == (len(requests), NUM_ITEMS + 1)
    assert np.all(np.isneginf(whole[:, 0]))
    assert np.all(np.isfinite(whole[:, 1:])) or name == "unseen"
    assert not np.isnan(whole).any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_MAX_ROWS", 2)
        np.testing.assert_array_equal(dense(baseline, asked), whole)


def test_blocks_have_at_most_512_rows() -> None:
    log = log_of([(1, 1, 0, True)])
    requests = requests_of([(1, 10)] * 1200)
    for build in BASELINES.values():
        assert [len(block) for block in build(log).scores(requests)] == [512, 512, 176]


def test_item_to_item_refuses_requests_before_its_fit() -> None:
    with pytest.raises(ValueError, match="would see its future"):
        dense(BASELINES["item to item"](log_of([])), requests_of([(1, FIT_UNTIL - 1)]))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="sort the log"):
        log_of([(1, 1, 5, True), (1, 1, 4, True)])
    with pytest.raises(ValueError, match="catalogue"):
        log_of([(1, NUM_ITEMS + 1, 5, True)])
    with pytest.raises(ValueError, match="length"):
        Interactions(*[np.zeros(n, dtype=np.int64) for n in (1, 1, 2)], np.ones(1, bool), 3)
    with pytest.raises(ValueError, match="sort the requests"):
        requests_of([(1, 5), (1, 4)])
    with pytest.raises(ValueError, match="must both be"):
        Requests(np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="window_ms=0"):
        Popularity(log_of([]), window_ms=0)
    with pytest.raises(ValueError, match="half_life_ms=0"):
        ItemToItem(log_of([]), fit_until=0, half_life_ms=0)


def test_what_is_learned_of_all_may_be_another_log():
    """Where there is no common time: popularity and likeness of `fit`, one's own past of `log`."""
    log = log_of([(1, 1, 1, True), (1, 2, 5, True), (2, 3, 6, True)])
    fit = log_of([(7, 1, 3, True), (7, 4, 3, True), (8, 4, 4, True)]).at(0)
    assert fit.ts.tolist() == [0, 0, 0]
    asked = requests_of([(1, 9)])
    (popular,) = dense(Popularity(fit), asked)
    assert popular[1:].tolist() == [1, 0, 0, 2, 0]
    (own,) = dense(RepeatFrequency(log, fit=fit), asked)
    assert (own[[1, 2]] > 1).all()
    assert own[4] > own[3]
    (alike,) = dense(ItemToItem(log, fit_until=1, half_life_ms=1e9, fit=fit), asked)
    assert alike[4] > 0  # shares a user of `fit` with item 1
    assert alike[3] == 0
