"""Kernels: how much an event of some age still counts. All are read from the same ages.

An age is in days and never below zero. A kernel never rises with age; that alone gives `bounds`,
since of an event in a tile only the tile is known. The power law is read from the ages, too, and
not from a bank of exponentials, the usual way where only decayed counters are kept: a bank of ten
is off by up to 2 % between a minute and three years, must be fitted to one exponent, and costs ten
exponentials where the law itself costs one power.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS

Floats = NDArray[np.float64]
Kernel = Callable[[Floats], Floats]
"""Ages in days to weights, of the same shape."""
Jumps = tuple[tuple[float, int], ...]
"""Pairs (a, half-life in ms): an event brings `a` more events on average, half of them within the
half-life. Below one in all, or the process explodes."""


def exponential(age_days: Floats, half_life_ms: int) -> Floats:
    """Weight `2^(-age / h)`: half of it is left after one half-life.

    An event read at the middle of a tile of width w has its weight to within a factor of
    `2^(w / 2h)`: 1.5 % for an hour at a half-life of a day.
    """
    return np.exp2(-age_days * (DAY_MS / half_life_ms))


def power_law(age_days: Floats, exponent: float, floor_ms: int) -> Floats:
    """Weight `((age + floor) / floor)^-d`: 1 at first, in the long run `age^-d` up to a factor.

    The exponent d is .5 by the convention of ACT-R (Anderson & Schooler 1991), whose base-level
    activation is the logarithm of the sum of these weights. The floor makes the weight at age 0
    finite: where forgetting by the power law sets in.

    An event read at the middle of a tile has its weight to within a factor of
    `(1 + w / 2(y + floor))^d`, w being the tile's width and y the age of its young edge: 0.4 % for
    a day that is two months old, but a multiple for an hour that is just over and a floor of a
    minute. So recent events must be read one by one, as those of the ring are.
    """
    return np.power(1.0 + age_days * (DAY_MS / floor_ms), -exponent)


def excitation(age_days: Floats, jumps: Jumps) -> Floats:
    """`sum_k a_k b_k 2^(-age / h_k)` with `b_k = ln 2 / h_k`: events a day that one event adds.

    An event read at the middle of a tile has its weight to within a factor of `2^(w / 2h)`, h
    being the shortest half-life.
    """
    total = np.zeros(np.shape(age_days))
    for jump, half_life_ms in jumps:
        total += jump * rate_per_day(half_life_ms) * exponential(age_days, half_life_ms)
    return total


def hawkes(age_days: Floats, count: NDArray[np.int64], *, base: float, jumps: Jumps) -> float:
    """Intensity in events a day: `base + sum of excitation` (Hawkes 1971).

    Args:
        age_days: `(M,)` of events strictly before the moment of the reading.
        count: `(M,)` events of each age.
        base: events a day that come by themselves.
    """
    return base + float(count @ excitation(age_days, jumps))


def compensator(
    age_days: Floats, count: NDArray[np.int64], *, window_days: float, base: float, jumps: Jumps
) -> float:
    """The intensity's integral over the last `window_days`: events to expect in that time.

    The log-likelihood of a window is the sum of the log intensities at its events less this.
    An event within the window adds `a (1 - 2^(-age / h))`, what it has brought by now; one before
    the window only what it has brought since the window began. It needs no more than the counters
    of `hawkes`: an atom within the window is off by at most `a` times what its decayed count is.
    """
    before = np.maximum(age_days - window_days, 0.0)
    total = base * window_days
    for jump, half_life_ms in jumps:
        spent = exponential(before, half_life_ms) - exponential(age_days, half_life_ms)
        total += jump * float(count @ spent)
    return total


def rate_per_day(half_life_ms: int) -> float:
    """Of decay, by day."""
    return log(2.0) * DAY_MS / half_life_ms


def bounds(
    kernel: Kernel,
    start_ms: NDArray[np.int64],
    end_ms: NDArray[np.int64],
    *,
    count: NDArray[np.int64],
    now_ms: int,
) -> tuple[float, float]:
    """The lowest and the highest that the exact sum over events can be.

    `count` `(M,)` events are known to lie in `[start, end)`, both `(M,)`. The sum with every event
    at its own time lies between the two, and so does the one with all at the middle; the latter is
    off by at most their difference, and by a factor of at most the kernel's bound for the widest
    atom.
    """
    old, young = (np.maximum(now_ms - edge, 0) / DAY_MS for edge in (start_ms, end_ms))
    return float(count @ kernel(old)), float(count @ kernel(young))
