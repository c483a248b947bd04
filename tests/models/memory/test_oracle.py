"""The fast path against the slow one, and both against the exact per-event sums."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, Interactions
from models.memory import MemoryView, fold, user_feature_names, user_features, view
from models.memory.atoms import of_state
from tests.models.memory import oracle
from tests.models.memory.strategies import MEMORY, SPEC, VIEW, offsets_ms, records, some

waits = st.one_of(st.just(0), offsets_ms)


def read(events: Interactions, now_ms: int, session: int = 0) -> MemoryView:
    return view(fold(events, SPEC), now_ms=now_ms, spec=MEMORY, session=session)


def newest(events: Interactions) -> int:
    return int(events["ts"].max(initial=0))


@some
@given(records())
def test_rings(events: Interactions) -> None:
    state, plain = fold(events, SPEC), oracle.events_of(events)
    assert oracle.events_of(state.ring) == oracle.ring(plain, SPEC)
    assert oracle.events_of(state.shown) == oracle.shown(plain, SPEC)
    assert oracle.events_of(state.refused) == oracle.refused(plain, SPEC)


@some
@given(records())
def test_tiles(events: Interactions) -> None:
    unpacked = {
        (key >> 60, key >> 24 & (1 << 36) - 1, key >> 16 & 255, key & 65535): count
        for key, count in fold(events, SPEC).tiles.tolist()
    }
    assert unpacked == oracle.tiles(oracle.events_of(events), SPEC)


@some
@given(records())
def test_atoms(events: Interactions) -> None:
    found = of_state(fold(events, SPEC), SPEC)
    columns = (found.start, found.end, found.action, found.interest, found.event)
    rows = [oracle.Atom(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    assert len(set(rows)) == len(rows)
    counted = Counter(dict(zip(rows, found.count.tolist(), strict=True)))
    assert counted == oracle.atoms(oracle.events_of(events), SPEC)
    assert not found.row.any()


@some
@given(records(), waits)
def test_counts(events: Interactions, wait: int) -> None:
    now = newest(events) + wait
    counted = oracle.atoms(oracle.events_of(events), SPEC)
    expected = [
        [oracle.count(counted, action, half_life_ms=h, now_ms=now) for h in VIEW.half_lives]
        for action in VIEW.actions
    ]
    seen = read(events, now)
    np.testing.assert_allclose(seen.counts, expected, rtol=1e-9, atol=1e-300)
    assert seen.num_events == counted.total()


@some
@given(records(min_size=1), waits)
def test_counts_are_near_the_exact_sums(events: Interactions, wait: int) -> None:
    # An event of the ring counts exactly; of the others,
    # an event at ts in an atom [start, end), read at now >= ts, stands at the middle of what has
    # passed of the atom: its age is off by at most half of width = min(end, now) - start, and so
    # its weight 2^(-age / H) by a factor within 2^(+-width / 2H). A sum of events keeps bounds
    # that hold for each. With width at most the level's hop: an hour tile read at a half-life
    # of a day errs by less than 2^(1 / 48) - 1 = 1.5 %, a 30-day tile at 180 days by under 6 %.
    now = newest(events) + wait
    plain = oracle.events_of(events)
    counts = read(events, now).counts
    for row, action in enumerate(VIEW.actions):
        for column, half_life in enumerate(VIEW.half_lives):
            low = high = 0.0
            for event in plain:
                known = oracle.atom(event, plain, SPEC)
                if known is None or event.action != ACTIONS[action].code:
                    continue
                exact = float(oracle.weight((now - event.ts) / DAY_MS, half_life))
                factor = 2 ** ((min(known.end, now) - known.start) / half_life / 2)
                low, high = low + exact / factor, high + exact * factor
            assert low * (1 - 1e-9) <= counts[row, column] + 1e-300
            assert counts[row, column] <= high * (1 + 1e-9) + 1e-300


@some
@given(records(), waits)
def test_profiles_effective_numbers_and_drift(events: Interactions, wait: int) -> None:
    now = newest(events) + wait
    counted = oracle.atoms(oracle.events_of(events), SPEC)
    fast, slow = (
        oracle.profile(counted, half_life_ms=h, now_ms=now, num_interests=SPEC.num_interests)
        for h in (VIEW.fast, VIEW.slow)
    )
    effective = [oracle.effective(counted, half_life_ms=h, now_ms=now) for h in VIEW.half_lives]
    trust = oracle.confidence(counted, now_ms=now, spec=MEMORY)
    seen = read(events, now)
    np.testing.assert_allclose(seen.fast, fast, rtol=1e-9)
    np.testing.assert_allclose(seen.slow, slow, rtol=1e-9)
    np.testing.assert_allclose(seen.effective, effective, rtol=1e-9)
    cosine, jensen = oracle.cosine_distance(fast, slow), oracle.jensen_shannon(fast, slow)
    assert seen.drift_cosine == pytest.approx(trust * cosine, abs=1e-9)
    assert seen.drift_jensen_shannon == pytest.approx(trust * jensen, abs=1e-9)


@some
@given(records(), waits, st.integers(0, 3))
def test_sessions_and_rhythm(events: Interactions, wait: int, session: int) -> None:
    now = newest(events) + wait
    plain = oracle.events_of(events)
    kept = oracle.ring(plain, SPEC)
    found = oracle.sessions(kept, VIEW.session_gap)
    seen = read(events, now, session)
    assert seen.session_rank.tolist() == oracle.session_ranks(
        kept, now_ms=now, session=session, gap_ms=VIEW.session_gap
    )
    assert seen.num_sessions == len(found)
    begins = [members[0].ts for members in found]
    gap = (begins[-1] - begins[0]) / (len(begins) - 1) / DAY_MS if len(begins) > 1 else 0.0
    assert seen.gap_days == pytest.approx(gap)
    ages = [oracle.age_days(one, now) for one in oracle.atoms(plain, SPEC)]
    assert seen.tenure_days == pytest.approx(max(ages, default=0.0))
    # Since the last thing that the user did: being shown something is no doing.
    assert seen.recency_days == ((now - kept[-1].ts) / DAY_MS if kept else float("inf"))


@some
@given(records(), waits)
def test_features_are_named_and_finite(events: Interactions, wait: int) -> None:
    numbers = user_features(read(events, newest(events) + wait))
    assert numbers.shape == (len(user_feature_names(MEMORY)),)
    assert np.isfinite(numbers).all()


def test_shares_outlive_any_silence() -> None:
    """A ratio of two numbers that underflow would read as no memory at all."""
    event = np.zeros(1, fold(np.zeros(0), SPEC).ring.dtype)
    event["ts"], event["action"], event["interest"] = 1, ACTIONS["view"].code, 2
    seen = read(event, 100 * 365 * DAY_MS)
    assert seen.counts[0, 0] == 0.0
    assert seen.fast.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert seen.effective.tolist() == pytest.approx([1.0, 1.0, 1.0])
