"""Kernels beside plain Python, their bounds for events known by their tile only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import nnls

from models.config import DAY_MS
from models.memory.kernels import (
    Floats,
    Kernel,
    bounds,
    compensator,
    excitation,
    exponential,
    hawkes,
    power_law,
)
from models.memory.spec import HOUR_MS
from tests.models.memory.strategies import ORIGIN_MS, offsets_ms, some

MINUTE_MS = 60_000
JUMPS = ((0.5, 6 * HOUR_MS), (0.25, 10 * DAY_MS))
ONE = np.ones(1, np.int64)


class Case(NamedTuple):
    """A kernel, the same in plain Python, and its bound by width and youngest age in days."""

    kernel: Kernel
    plain: Callable[[float], float]
    factor: Callable[[Floats, Floats], Floats]


def plain_excitation(days: float) -> float:
    halves = [(jump, half / DAY_MS) for jump, half in JUMPS]
    return sum(jump * log(2) / half * exp(-log(2) * days / half) for jump, half in halves)


CASES = {
    "exponential": Case(
        partial(exponential, half_life_ms=DAY_MS),
        lambda days: 0.5**days,
        lambda width, young: 2 ** (width / 2),
    ),
    "power law": Case(
        partial(power_law, exponent=0.5, floor_ms=MINUTE_MS),
        lambda days: (1 / (1 + 1440 * days)) ** 0.5,
        lambda width, young: (1 + width / 2 / (young + 1 / 1440)) ** 0.5,
    ),
    "excitation": Case(
        partial(excitation, jumps=JUMPS),
        plain_excitation,
        lambda width, young: 2 ** (width / 2 * 4),  # the shortest half-life is a quarter of a day
    ),
}
each = pytest.mark.parametrize("name", sorted(CASES))


@each
@pytest.mark.parametrize("days", [0.0, 1e-6, 0.02, 1.0, 40.0, 1_000.0])
def test_a_kernel_is_its_formula(name: str, days: float) -> None:
    case = CASES[name]
    assert case.kernel(np.array([days])) == pytest.approx(case.plain(days), rel=1e-12)


@each
def test_a_kernel_never_rises_with_age(name: str) -> None:
    ages = np.append(0.0, np.geomspace(1e-5, 900, 500))
    assert (np.diff(CASES[name].kernel(ages)) < 0).all()


@each
def test_a_weight_does_not_depend_on_the_others_in_the_batch(name: str) -> None:
    # Parity of one user's reading with that of a batch rests on this, to the bit.
    ages = np.random.default_rng(5).exponential(20, (9, 31))
    together = CASES[name].kernel(ages)
    for row, weights in zip(ages, together, strict=True):
        alone = [CASES[name].kernel(row[place : place + 1])[0] for place in range(len(row))]
        assert alone == weights.tolist()
    assert np.array_equal(CASES[name].kernel(ages[:, ::-2]), together[:, ::-2])


def test_conventions() -> None:
    half, age = 7 * DAY_MS, np.array([7.0])
    assert exponential(age, half)[0] == 0.5
    assert power_law(np.zeros(1), 0.5, MINUTE_MS)[0] == 1.0
    year = power_law(np.array([365.0, 4 * 365.0]), 0.5, MINUTE_MS)
    assert year[0] / year[1] == pytest.approx(2, rel=1e-5)  # age^-.5 in the long run


class Grouped(NamedTuple):
    """Atoms, and the time of each event within them."""

    start: np.ndarray
    end: np.ndarray
    count: np.ndarray
    ts: np.ndarray
    atom: np.ndarray


@st.composite
def grouped(draw: st.DrawFn) -> Grouped:
    """Up to six tiles of any width with up to four events each, ends and beginnings included."""
    starts, ends, times = [], [], []
    for _ in range(draw(st.integers(1, 6))):
        start = ORIGIN_MS + draw(offsets_ms)
        width = draw(st.sampled_from([1, MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS]))
        inside = st.one_of(st.just(0), st.just(width - 1), st.integers(0, width - 1))
        times.append([start + draw(inside) for _ in range(draw(st.integers(1, 4)))])
        starts.append(start)
        ends.append(start + width)
    counts = np.array([len(ts) for ts in times])
    atom = np.repeat(np.arange(len(counts)), counts)
    return Grouped(np.array(starts), np.array(ends), counts, np.concatenate(times), atom)


nows = offsets_ms.map(lambda offset: ORIGIN_MS + 2 * offset)


def age_days(moment: np.ndarray, now_ms: int) -> Floats:
    return np.maximum(now_ms - moment, 0) / DAY_MS


def middle_days(start: np.ndarray, end: np.ndarray, now_ms: int) -> Floats:
    return age_days((start + np.minimum(end, now_ms)) / 2, now_ms)


@each
@some
@given(known=grouped(), now_ms=nows)
def test_the_exact_sum_and_the_middle_reading_lie_between_the_bounds(
    name: str, known: Grouped, now_ms: int
) -> None:
    kernel = CASES[name].kernel
    low, high = bounds(kernel, known.start, known.end, count=known.count, now_ms=now_ms)
    exact = sum(CASES[name].plain(days) for days in age_days(known.ts, now_ms).tolist())
    middle = float(known.count @ kernel(middle_days(known.start, known.end, now_ms)))
    slack = 1e-12 * high
    assert low - slack <= exact <= high + slack
    assert low - slack <= middle <= high + slack


@each
@some
@given(known=grouped(), now_ms=nows)
def test_the_middle_reading_is_off_by_at_most_the_stated_factor(
    name: str, known: Grouped, now_ms: int
) -> None:
    kernel, _, factor = CASES[name]
    end = np.minimum(known.end, np.maximum(now_ms, known.start))
    width, young = (end - known.start) / DAY_MS, age_days(end, now_ms)
    middle = kernel(middle_days(known.start, known.end, now_ms))[known.atom]
    exact = kernel(age_days(known.ts, now_ms))
    room = factor(width, young)[known.atom] * (1 + 1e-12)
    lost = 1e-300  # below it a weight has fewer digits
    assert (exact <= middle * room + lost).all()
    assert (middle <= exact * room + lost).all()


def test_bounds_are_sharp_and_close_where_the_time_is_known() -> None:
    kernel = CASES["exponential"].kernel
    start, now = np.array([ORIGIN_MS]), ORIGIN_MS + 3 * DAY_MS
    assert bounds(kernel, start, start, count=ONE, now_ms=now) == (0.125, 0.125)
    assert bounds(kernel, start, start + DAY_MS, count=4 * ONE, now_ms=now) == (0.5, 1.0)
    future = bounds(kernel, start, start + DAY_MS, count=ONE, now_ms=ORIGIN_MS - 1)
    assert future == (1.0, 1.0)


def test_the_examples_of_the_docstrings() -> None:
    hour = CASES["exponential"].factor(np.array(1 / 24), np.array(0.0))
    day, just_over = CASES["power law"].factor(np.array([1, 1 / 24]), np.array([60.0, 0.0]))
    assert hour == pytest.approx(1.0145, abs=1e-4)
    assert day == pytest.approx(1.004, abs=5e-4)
    assert just_over > 5


def test_ten_half_lives_give_the_power_law_to_two_per_cent() -> None:
    # Minute to three years. The law read from ages is exact, so no bank is kept.
    ages = np.geomspace(1 / 1440, 3 * 365, 2_000)
    law = ages**-0.5
    errors = {}
    for size in (8, 10):
        half_lives = np.geomspace(0.6 / 1440, 2 * 3 * 365, size) * DAY_MS
        bank = np.stack([exponential(ages, half) for half in half_lives], axis=1)
        shares, _ = nnls(bank / law[:, None], np.ones(len(ages)))
        errors[size] = np.abs(bank @ shares / law - 1).max()
    assert errors[10] < 0.02 < errors[8]


def intensity_at(day: float, events: Floats) -> float:
    past = day - events[events < day]
    return hawkes(past, np.ones(len(past), np.int64), base=0.3, jumps=JUMPS)


def test_the_intensity_is_the_base_and_what_each_event_adds() -> None:
    events = np.array([0.0, 2.5, 9.0])
    assert hawkes(events[:0], ONE[:0], base=0.3, jumps=JUMPS) == 0.3
    expected = 0.3 + sum(plain_excitation(10 - day) for day in events.tolist())
    assert intensity_at(10.0, events) == pytest.approx(expected, rel=1e-12)
    twice = hawkes(np.array([1.0]), 2 * ONE, base=0.0, jumps=JUMPS)
    assert twice == pytest.approx(2 * plain_excitation(1.0), rel=1e-12)


@pytest.mark.parametrize("window", [10.0, 6.0, 0.5])
def test_the_compensator_is_the_integral_of_the_intensity(window: float) -> None:
    # Events before the window go on adding within it.
    events, now = np.array([0.0, 2.5, 5.0, 9.0]), 10.0
    edges = [now - window, *events[events > now - window].tolist(), now]
    integral = sum(quad(intensity_at, a, b, args=(events,))[0] for a, b in pairwise(edges))
    counts = np.ones(len(events), np.int64)
    expected = compensator(now - events, counts, window_days=window, base=0.3, jumps=JUMPS)
    assert expected == pytest.approx(integral, rel=1e-9)


def test_in_the_end_an_event_has_brought_its_jumps() -> None:
    brought = compensator(np.array([1e4]), ONE, window_days=2e4, base=0.0, jumps=JUMPS)
    assert brought == pytest.approx(0.75, rel=1e-9)
