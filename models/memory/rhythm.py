"""Rhythm: how regularly somebody comes, whether they are overdue, and what a long silence does.

Everything here is a fold over the times `(..., N)` of interactions, oldest first, and the mask
`(..., N)` of those that begin a session. Leading axes are as many users as one likes; what lies
before the first beginning (padding in front) counts for nothing, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from models.config import DAY_MS, Config, Duration

Floats = NDArray[np.float64]
_LEAST_MS = 60_000.0  # shorter gaps and silences count as a minute: a logarithm needs a floor
_erfc = np.frompyfunc(erfc, 1, 1)  # exact where a rational form is not; one call per user


class RhythmSpec(Config):
    """What is believed of a person's rhythm before anything is seen."""

    median_gap: Duration = Field(7 * DAY_MS, gt=0)
    """Between the beginnings of two sessions."""
    spread: float = Field(1.5, gt=0)
    """Standard deviation of the logarithm of a gap: e^1.5 is a factor of 4.5 to either side."""
    prior_gaps: float = Field(3.0, gt=0)
    """How many gaps of one's own weigh as much as the prior."""


@dataclass(frozen=True)
class Rhythm:
    """Of the sessions seen; every field has the leading shape."""

    num_gaps: NDArray[np.int64]
    burstiness: Floats
    """-1 as regular as a clock, near 0 at random (Poisson), 1 all at once; 0 below two gaps.

    `(sd / mean - 1) / (sd / mean + 1)` of the gaps (Goh & Barabasi 2008), in the form for few of
    them (Kim & Jo 2016): of three random gaps the mean is -.08 instead of -.25.
    """
    median_gap_days: Floats
    """Of the fitted log-normal."""
    spread: Floats
    """Standard deviation of the logarithm of a gap."""
    overdue: Floats
    """Time since the last session began, in median gaps: 1 is due; 0 without any session."""
    survival: Floats
    """Chance that a gap lasts even longer than the one going on; 1 without any session."""

    @property
    def dormancy(self) -> Floats:
        """Share of this person's gaps that would be over by now: 0 just here, 1 gone."""
        return np.asarray(1.0 - self.survival)


def rhythm(
    ts_ms: NDArray[np.int64], begins: NDArray[np.bool_], *, now_ms: ArrayLike, spec: RhythmSpec
) -> Rhythm:
    """Reads the rhythm of `(..., N)` interactions as it stands at `now_ms` `(...)`.

    The logarithms of gaps between beginnings of sessions are taken as normal; mean and variance
    are the posterior means under a normal-inverse-gamma prior worth `prior_gaps` gaps of mean
    `log median_gap` and deviation `spread`. The gap going on is not among them.
    """
    gap, counted = _gaps(ts_ms, begins)
    num = np.asarray(counted.sum(-1))
    moments = _moments(np.stack([np.log(gap), gap]), counted)
    (log_mean, gap_mean), (log_variance, gap_variance) = moments
    mean, sd = _log_normal(log_mean, log_variance, num, spec)
    seen = begins.any(-1)
    last = np.where(begins, ts_ms, 0).max(-1, initial=0)
    silence = np.maximum(np.asarray(now_ms) - last, _LEAST_MS)
    return Rhythm(
        num_gaps=num,
        burstiness=_burstiness(gap_mean, gap_variance, num),
        median_gap_days=np.exp(mean) / DAY_MS,
        spread=sd,
        overdue=np.where(seen, silence / np.exp(mean), 0.0),
        survival=np.where(seen, survival(silence, mean=mean, sd=sd), 1.0),
    )


def survival(silence_ms: ArrayLike, *, mean: ArrayLike, sd: ArrayLike) -> Floats:
    """`1 - Phi((log silence - mean) / sd)`: chance that a log-normal gap lasts longer."""
    z = (np.log(silence_ms) - np.asarray(mean)) / np.asarray(sd)
    return np.asarray(_erfc(z / sqrt(2.0)), np.float64) / 2


def silence_before(
    ts_ms: NDArray[np.int64],
    begins: NDArray[np.bool_],
    *,
    now_ms: ArrayLike,
    current: ArrayLike,
) -> NDArray[np.int64]:
    """`(...)` ms of silence that a session going on has ended, or else that lasts until now.

    Zero in the first session of all, and where there is none: nobody has come back.

    Args:
        current: `(...)` whether the newest interaction is of the session going on, see
            `models.memory.sessions.is_current`.
    """
    if not ts_ms.shape[-1]:
        return np.zeros(ts_ms.shape[:-1], np.int64)
    began = ts_ms.shape[-1] - 1 - np.argmax(begins[..., ::-1], axis=-1)[..., None]
    first, before = (
        np.take_along_axis(ts_ms, place, -1)[..., 0] for place in (began, np.maximum(began - 1, 0))
    )
    returned = np.where(begins.sum(-1) > 1, first - before, 0)
    still = np.where(begins.any(-1), np.asarray(now_ms) - ts_ms[..., -1], 0)
    return np.where(current, returned, np.maximum(still, 0))


def temper(gap_ms: ArrayLike, half_life_ms: int) -> Floats:
    """Weight `2^(-gap / half-life)` of long memory after a silence: who returns may have changed.

    Taken from `silence_before`, it stays the same throughout the session of the return.
    """
    return np.exp2(-np.asarray(gap_ms, np.float64) / half_life_ms)


def _gaps(ts_ms: NDArray[np.int64], begins: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """`(..., N)` ms since the beginning before this one, and where there are both."""
    latest = np.maximum.accumulate(np.where(begins, ts_ms, -1), axis=-1)
    before = np.full(ts_ms.shape, -1, np.int64)
    before[..., 1:] = latest[..., :-1]
    counted = begins & (before >= 0)
    return np.where(counted, np.maximum(ts_ms - before, _LEAST_MS), _LEAST_MS), counted


def _moments(values: Floats, counted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and variance `(...)` of the values `(..., N)` that count; 0 where none does.

    Summed one by one from the left: zeros before and between then change no bit of the result, as
    they would in a pairwise sum.
    """
    if not values.shape[-1]:
        return np.zeros(values.shape[:-1]), np.zeros(values.shape[:-1])
    num = np.maximum(counted.sum(-1), 1)
    mean = np.cumsum(values * counted, axis=-1)[..., -1] / num
    off = (values - mean[..., None]) * counted
    return mean, np.cumsum(off * off, axis=-1)[..., -1] / num


def _log_normal(
    own: Floats, variance: Floats, num: NDArray[np.int64], spec: RhythmSpec
) -> tuple[Floats, Floats]:
    """Posterior means `(...)` of the mean and, as its root, the variance of log gaps."""
    prior, off = spec.prior_gaps, own - log(spec.median_gap)
    mean = log(spec.median_gap) + num * off / (prior + num)
    # Products, not `**`: numpy squares an array and takes a power of a scalar, to other bits.
    moved = prior * num / (prior + num) * (off * off)
    return mean, np.sqrt((prior * spec.spread**2 + num * variance + moved) / (prior + num))


def _burstiness(mean: Floats, variance: Floats, num: NDArray[np.int64]) -> Floats:
    """With n gaps: `(sqrt(n+1) r - sqrt(n-1)) / ((sqrt(n+1) - 2) r + sqrt(n-1))`, r = sd / mean.

    Kim & Jo count events on a ring of time, where there are as many gaps.
    """
    enough = num > 1
    num = np.where(enough, num, 2)
    ratio = np.sqrt(variance) / np.where(enough, mean, 1.0)
    more, less = np.sqrt(num + 1.0), np.sqrt(num - 1.0)
    return np.where(enough, (more * ratio - less) / ((more - 2.0) * ratio + less), 0.0)
