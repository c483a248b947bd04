"""Drift on lives with a planted change: found soon, and quiet where nothing changes.

`tests/benchmarks/bench_drift.py` has the figures: delays, false alarms, other half-lives.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from models.config import DAY_MS
from models.events import Interactions
from models.memory import MemorySpec, ViewSpec, fold, view
from tests.models.memory.drifting import STATE, Life, drift, first_alarm, live, moment, threshold

SPEC = MemorySpec(state=STATE, view=ViewSpec(fast="14d", slow="180d"))
CHANGE = 300
DAYS = np.arange(CHANGE + 3, 541, 3)
LIFE = Life(days=540, sessions_a_week=4)
ABRUPT = replace(LIFE, change=CHANGE)
GRADUAL = replace(LIFE, change=CHANGE, takes=60)
both_measures = pytest.mark.parametrize("measure", [0, 1], ids=["cosine", "jensen_shannon"])


@lru_cache
def paths(life: Life, first: int, num: int) -> np.ndarray:
    """`(num, D, 2)` drift of lives that differ in their seed."""
    return drift([live(life, seed) for seed in range(first, first + num)], DAYS, SPEC)


def days_to_alarm(life: Life, measure: int) -> np.ndarray:
    """`(30,)` since the change, at a level that one in twenty other, steady lives ever reach."""
    level = threshold(paths(LIFE, 0, 60)[:, :, measure], 0.05)
    return first_alarm(paths(life, 1_000, 30)[:, :, measure], DAYS, level) - CHANGE


@both_measures
def test_a_planted_change_is_found(measure: int) -> None:
    waited = days_to_alarm(ABRUPT, measure)
    assert (waited < 120).mean() >= 0.9
    assert np.median(waited) <= 30


@both_measures
def test_a_slow_change_is_found_later(measure: int) -> None:
    waited = days_to_alarm(GRADUAL, measure)
    assert (waited < 150).mean() >= 0.9
    assert np.median(days_to_alarm(ABRUPT, measure)) < np.median(waited) <= 75


@both_measures
def test_lives_without_a_change_stay_quiet(measure: int) -> None:
    # The same seeds as those of the changed lives, and none of those that set the level.
    assert (days_to_alarm(LIFE, measure) < np.inf).mean() <= 0.15


def test_before_the_change_nothing_shows_it() -> None:
    early = np.arange(30, CHANGE, 30)
    lives = [live(life, seed=1_000) for life in (LIFE, ABRUPT, GRADUAL)]
    steady, *changed = drift(lives, early, SPEC)
    assert all(np.array_equal(path, steady) for path in changed)


def now_of(day: int) -> int:
    return int(moment(np.array(day)))


def drift_at(events: Interactions, day: int) -> np.ndarray:
    now_ms = now_of(day)
    seen = view(fold(events[events["ts"] < now_ms], STATE), now_ms=now_ms, spec=SPEC)
    return np.array([seen.drift_cosine, seen.drift_jensen_shannon])


def test_what_changed_long_ago_is_no_change_any_more() -> None:
    found = [
        [drift_at(life, day) for day in (CHANGE, CHANGE + 60, CHANGE + 1_500)]
        for life in (live(replace(ABRUPT, days=2_000), seed) for seed in range(1_000, 1_010))
    ]
    before, soon, later = np.mean(found, axis=0)
    assert (soon > 4 * before).all()
    assert (soon > 4 * later).all()


def test_silence_is_no_drift() -> None:
    events = live(replace(ABRUPT, days=CHANGE + 40), seed=1_001)
    leaving, returning = (drift_at(events, CHANGE + 40 + silent) for silent in (2, 400))
    assert (leaving > 0.2).all()
    assert returning == pytest.approx(leaving, rel=1e-6)


def test_few_events_prove_little() -> None:
    events = live(replace(ABRUPT, days=CHANGE + 40), seed=1_001)
    few = events[[0, -1]].copy()
    few["interest"] = [1, 2]
    few["ts"] = [now_of(0), now_of(CHANGE) - DAY_MS]
    cosine, jensen_shannon = drift_at(few, CHANGE)
    assert 0 < cosine < 0.2
    assert 0 < jensen_shannon < 0.2
    many = np.repeat(few, 40)
    many["event"] = np.arange(1, 81)
    assert (drift_at(many, CHANGE) > 3 * np.array([cosine, jensen_shannon])).all()
