"""Rhythm beside plain Python: gaps one by one, priors updated gap by gap, batches and padding."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from math import erf, exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import INTERACTION, Interactions
from models.memory.rhythm import Rhythm, RhythmSpec, rhythm, silence_before, survival, temper
from models.memory.sessions import is_current, starts
from tests.models.memory.strategies import ORIGIN_MS, offsets_ms, some

SPEC = RhythmSpec(median_gap="10d", spread=1.2, prior_gaps=3)
GAP_MS = 30 * 60_000


def read(*days: float, now: float, spec: RhythmSpec = SPEC) -> Rhythm:
    """The rhythm of sessions that each began on a day and had one interaction."""
    ts = ORIGIN_MS + (np.asarray(days) * DAY_MS).astype(np.int64)
    return rhythm(ts, np.ones(len(ts), bool), now_ms=ORIGIN_MS + int(now * DAY_MS), spec=spec)


def one_by_one(gaps_ms: list[float]) -> tuple[float, float]:
    """Normal-inverse-gamma, updated with a gap at a time; posterior mean and sd of log gaps."""
    mean, weight = log(SPEC.median_gap), SPEC.prior_gaps
    alpha = 1 + SPEC.prior_gaps / 2
    beta = SPEC.prior_gaps / 2 * SPEC.spread**2
    for gap in gaps_ms:
        off = log(gap) - mean
        beta += weight * off**2 / (2 * (weight + 1))
        mean, weight, alpha = mean + off / (weight + 1), weight + 1, alpha + 0.5
    return mean, sqrt(beta / (alpha - 1))


def plain_burstiness(gaps: list[float]) -> float:
    n, mean = len(gaps), sum(gaps) / max(len(gaps), 1)
    if n < 2:
        return 0.0
    r = sqrt(sum((gap - mean) ** 2 for gap in gaps) / n) / mean
    return (sqrt(n + 1) * r - sqrt(n - 1)) / ((sqrt(n + 1) - 2) * r + sqrt(n - 1))


times = st.lists(offsets_ms, max_size=9).map(lambda ms: ORIGIN_MS + np.sort(np.array(ms, np.int64)))


@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    ts = draw(times)
    events = np.zeros(len(ts), INTERACTION)
    events["ts"], events["event"] = ts, np.arange(1, len(ts) + 1)
    events["session"] = draw(st.lists(st.integers(0, 2), min_size=len(ts), max_size=len(ts)))
    return events


nows = offsets_ms.map(lambda offset: ORIGIN_MS + 2 * offset)


@some
@given(interactions(), nows)
def test_a_rhythm_is_what_plain_python_says(events: Interactions, now_ms: int) -> None:
    begins = starts(events, GAP_MS)
    began = events["ts"][begins].tolist()
    gaps = [float(max(b - a, 60_000)) for a, b in pairwise(began)]
    found = rhythm(events["ts"], begins, now_ms=now_ms, spec=SPEC)
    mean, sd = one_by_one(gaps)
    assert found.num_gaps == len(gaps)
    assert found.burstiness == pytest.approx(plain_burstiness(gaps), abs=1e-9)
    assert found.median_gap_days == pytest.approx(exp(mean) / DAY_MS, rel=1e-9)
    assert found.spread == pytest.approx(sd, rel=1e-9)
    if began:
        silence = max(now_ms - began[-1], 60_000)
        gone = (1 + erf((log(silence) - mean) / sd / sqrt(2))) / 2
        assert found.overdue == pytest.approx(silence / exp(mean), rel=1e-9)
        assert found.dormancy == pytest.approx(gone, abs=1e-9)


def test_without_sessions_there_is_the_prior_and_nothing_to_be_late_from() -> None:
    found = read(now=30)
    assert (found.num_gaps, found.burstiness, found.overdue, found.dormancy) == (0, 0, 0, 0)
    assert found.median_gap_days == pytest.approx(10)
    assert found.spread == pytest.approx(1.2)


def test_one_session_is_judged_by_the_prior_alone() -> None:
    found = read(0, now=10)
    assert found.overdue == pytest.approx(1)
    assert found.survival == pytest.approx(0.5)


def test_many_gaps_outweigh_the_prior() -> None:
    found = read(*range(0, 400, 2), now=399)
    assert found.median_gap_days == pytest.approx(2, rel=0.05)
    assert found.spread < 0.4
    weekly, daily = read(*range(0, 70, 7), now=70), read(*range(70), now=76)
    assert daily.dormancy > 0.85 > 0.5 > weekly.dormancy  # a week is long for one, not the other


def test_dormancy_grows_with_silence_and_ends_at_one() -> None:
    found = [read(0, 3, 9, 12, now=12 + wait) for wait in (0, 1, 5, 20, 100, 10_000)]
    dormancy = [float(one.dormancy) for one in found]
    assert dormancy == sorted(dormancy)
    assert dormancy[0] < 1e-3
    assert dormancy[-1] > 0.999


def test_survival_is_that_of_the_log_normal() -> None:
    z = np.array([-1.0, 0.0, 1.0, 1.959964])
    found = survival(np.exp(5 + 2 * z), mean=5.0, sd=2.0)
    assert found == pytest.approx([0.841345, 0.5, 0.158655, 0.025], abs=1e-6)


def test_burstiness_of_a_clock_and_of_a_crowd() -> None:
    assert read(*range(9), now=9).burstiness == pytest.approx(-1)
    crowd = [0, *(1_000 + n / 1440 for n in range(8))]  # one long silence, then every minute
    assert read(*crowd, now=1_001).burstiness == pytest.approx(1, abs=0.01)
    assert read(0, 5, now=9).burstiness == 0


@pytest.mark.parametrize("num_gaps", [3, 10, 100])
def test_at_random_burstiness_is_near_zero_however_few_the_gaps(num_gaps: int) -> None:
    gaps = np.random.default_rng(7).exponential(DAY_MS * 30, (4_000, num_gaps + 1))
    ts = ORIGIN_MS + np.cumsum(gaps, axis=1).astype(np.int64)
    found = rhythm(ts, np.ones(ts.shape, bool), now_ms=ts[:, -1], spec=SPEC).burstiness
    between = np.diff(ts, axis=1)
    ratio = between.std(axis=1) / between.mean(axis=1)
    uncorrected = (ratio - 1) / (ratio + 1)
    assert abs(found.mean()) < 0.1
    assert abs(found.mean()) < abs(uncorrected.mean()) / 1.7


def padded(events: list[Interactions], width: int) -> Interactions:
    """`(B, width)` with zero records in front."""
    batch = np.zeros((len(events), width), INTERACTION)
    for row, one in zip(batch, events, strict=True):
        row[width - len(one) :] = one
    return batch


@some
@given(st.lists(interactions(), min_size=1, max_size=4), st.integers(0, 20), nows)
def test_a_batch_is_its_users_bit_for_bit(
    users: list[Interactions], padding: int, now_ms: int
) -> None:
    batch = padded(users, 9 + padding)
    begins = starts(batch, GAP_MS) & (batch["event"] != 0)
    now = now_ms + np.arange(len(users))
    together = rhythm(batch["ts"], begins, now_ms=now, spec=SPEC)
    current = is_current(batch, now_ms=now, session=1, gap_ms=GAP_MS)
    quiet = silence_before(batch["ts"], begins, now_ms=now, current=current)
    for row, one in enumerate(users):
        ts, alone_begins = one["ts"], starts(one, GAP_MS)
        alone = rhythm(ts, alone_begins, now_ms=now[row], spec=SPEC)
        for field in fields(Rhythm):
            assert getattr(together, field.name)[row] == getattr(alone, field.name), field.name
        goes_on = is_current(one, now_ms=now[row], session=1, gap_ms=GAP_MS)
        assert quiet[row] == silence_before(
            ts, alone_begins, now_ms=now[row], current=goes_on if len(one) else False
        )


def test_only_beginnings_count_whatever_stands_between_them() -> None:
    ts = ORIGIN_MS + np.array([0, 1, 2, 30, 31, 90]) * DAY_MS
    begins = np.array([True, False, False, True, False, True])
    now = ORIGIN_MS + 100 * DAY_MS
    among = rhythm(ts, begins, now_ms=now, spec=SPEC)
    alone = rhythm(ts[begins], np.ones(3, bool), now_ms=now, spec=SPEC)
    for field in fields(Rhythm):
        assert getattr(among, field.name) == getattr(alone, field.name)


def quiet_days(*, now: float, current: bool, days: list[float], begins: list[bool]) -> float:
    ts = ORIGIN_MS + (np.array(days) * DAY_MS).astype(np.int64)
    now_ms = ORIGIN_MS + int(now * DAY_MS)
    return silence_before(ts, np.array(begins), now_ms=now_ms, current=current) / DAY_MS


def test_the_silence_that_a_return_has_ended_holds_through_its_session() -> None:
    days, begins = [0.0, 1.0, 91.0, 91.25], [True, False, True, False]
    for now in (91.3, 92.0):
        assert quiet_days(now=now, current=True, days=days, begins=begins) == 90
    # The session is over: now the present silence counts.
    assert quiet_days(now=95.25, current=False, days=days, begins=begins) == 4
    assert quiet_days(now=5, current=True, days=[0.0, 0.5], begins=[True, False]) == 0
    assert quiet_days(now=5, current=False, days=[], begins=[]) == 0
    assert quiet_days(now=-1, current=False, days=[0.0], begins=[True]) == 0


def test_long_memory_halves_with_each_half_life_of_absence() -> None:
    assert temper(np.array([0, 90, 180]) * DAY_MS, 90 * DAY_MS).tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"median_gap": 0}, "median_gap"),
        ({"spread": 0}, "spread"),
        ({"prior_gaps": 0}, "prior_gaps"),
        ({"gap": "1d"}, "gap"),
    ],
)
def test_a_prior_that_says_nothing_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RhythmSpec.model_validate(values)
