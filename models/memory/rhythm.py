"""Rhythm: how regularly somebody comes, whether they are overdue, and what a long silence does.

Everything here is a fold over the times `(..., N)` of interactions, oldest first, and the mask
`(..., N)` of those that begin a session. Leading axes are as many users as one likes; what lies
before the first beginning (padding in front) counts for nothing, to the bit: sums go over the
beginnings alone, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, inf, log, prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from models.config import DAY_MS, Config, Duration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_erfc = np.frompyfunc(erfc, 1, 1)  # exact where a rational form is not; one call per user
_LEAST_MS = 60_000.0  # shorter gaps and silences count as a minute: a logarithm needs a floor


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

    num_gaps: Ints
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


class Visits(NamedTuple):
    """The sessions of one user in plain numbers, since arrays of one would be ten times dearer."""

    num: int
    first_ms: int
    """When the first session began."""
    last_ms: int
    """When the last one did."""
    before_ms: int
    """The interaction before that; of another user, or none, if it is the first."""
    newest_ms: int
    gap: float
    """Mean of the gaps between beginnings, in ms and each at least a minute; 0 of none."""
    gap_variance: float
    log_gap: float
    """Mean of their logarithms."""
    log_variance: float

    def gap_days(self) -> float:
        """Mean time between two beginnings; 0 with fewer than two."""
        # Sessions begin in the order of time: the first and the last say all of the mean.
        return (self.last_ms - self.first_ms) / DAY_MS / max(self.num - 1, 1)

    def recency_days(self, now_ms: int) -> float:
        """Since the newest interaction; infinite without any session."""
        return max(now_ms - self.newest_ms, 0) / DAY_MS if self.num else inf

    def silence(self, now_ms: int, current: bool) -> int:
        """See `silence_before`."""
        if self.num <= current:
            return 0
        return max(self.last_ms - self.before_ms if current else now_ms - self.newest_ms, 0)

    def rhythm(
        self, now_ms: int, spec: RhythmSpec
    ) -> tuple[int, float, float, float, float, float]:
        """The fields of `Rhythm`."""
        num_gaps, overdue, survives = max(self.num - 1, 0), 0.0, 1.0
        mean, sd = self._log_normal(num_gaps, spec)
        median = exp(mean)
        if self.num:
            silence = max(float(now_ms - self.last_ms), _LEAST_MS)
            overdue, survives = silence / median, float(survival(silence, mean=mean, sd=sd))
        return num_gaps, self._burstiness(num_gaps), median / DAY_MS, sd, overdue, survives

    def _log_normal(self, num_gaps: int, spec: RhythmSpec) -> tuple[float, float]:
        """Posterior means of the mean and, as its root, the variance of log gaps."""
        prior, center = spec.prior_gaps, log(spec.median_gap)
        off, total = self.log_gap - center, num_gaps + prior
        drawn = num_gaps * off / total
        squares = prior * spec.spread**2 + num_gaps * self.log_variance + prior * off * drawn
        return center + drawn, sqrt(squares / total)

    def _burstiness(self, num_gaps: int) -> float:
        """`(sqrt(n+1) r - sqrt(n-1)) / ((sqrt(n+1) - 2) r + sqrt(n-1))` of n gaps, r = sd / mean.

        Kim & Jo count events on a ring of time, where there are as many gaps.
        """
        if num_gaps < 2:
            return 0.0
        more, less = sqrt(num_gaps + 1), sqrt(num_gaps - 1)
        ratio = sqrt(self.gap_variance) / self.gap
        return (more * ratio - less) / ((more - 2.0) * ratio + less)


_NOBODY = Visits(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def visits(ts_ms: Ints, begins: NDArray[np.bool_]) -> list[Visits]:
    """Of interactions `(..., N)` in time order and where sessions begin, user after user."""
    num_users, width = prod(ts_ms.shape[:-1]), ts_ms.shape[-1]
    if not width:
        return [_NOBODY] * num_users
    ts, at = ts_ms.reshape(-1), begins.reshape(-1).nonzero()[0]
    row, began = at // width, ts[at]
    columns = np.bincount(row, minlength=num_users), ts_ms[..., -1].reshape(-1)
    rows = zip(
        *(column.tolist() for column in columns), *_moments(began, row, num_users), strict=True
    )
    ms, low, found = began.tolist(), 0, []
    for num, newest_ms, *moments in rows:
        high = low + num
        if num:
            before_ms = int(ts[at[high - 1] - 1])
            found.append(Visits(num, ms[low], ms[high - 1], before_ms, newest_ms, *moments))
        else:
            found.append(_NOBODY)
        low = high
    return found


def _moments(began: Ints, row: Ints, num_users: int) -> list[list[float]]:
    """Mean and variance of the gaps of each user, then of their logarithms; 0 of none.

    `np.bincount` adds one by one in the order given, so no user's bits depend on the others.
    """
    inside = (row[1:] == row[:-1]).nonzero()[0]
    of, gap = row[inside], np.maximum((began[1:] - began[:-1])[inside], _LEAST_MS)
    num = np.maximum(np.bincount(of, minlength=num_users), 1)
    found: list[list[float]] = []
    for values in (gap, np.log(gap)):
        mean = np.bincount(of, values, num_users) / num
        off = values - mean[of]
        found += mean.tolist(), (np.bincount(of, off * off, num_users) / num).tolist()
    return found


def rhythm(
    ts_ms: Ints, begins: NDArray[np.bool_], *, now_ms: ArrayLike, spec: RhythmSpec
) -> Rhythm:
    """Reads the rhythm of `(..., N)` interactions as it stands at `now_ms` `(...)`.

    The logarithms of gaps between beginnings of sessions are taken as normal; mean and variance
    are the posterior means under a normal-inverse-gamma prior worth `prior_gaps` gaps of mean
    `log median_gap` and deviation `spread`. The gap going on is not among them.
    """
    shape = ts_ms.shape[:-1]
    moments = np.broadcast_to(now_ms, shape).reshape(-1).tolist()
    pairs = zip(visits(ts_ms, begins), moments, strict=True)
    columns = zip(*(one.rhythm(now, spec) for one, now in pairs), strict=True)
    return Rhythm(*(np.array(column).reshape(shape) for column in columns))


def survival(silence_ms: ArrayLike, *, mean: ArrayLike, sd: ArrayLike) -> Floats:
    """`1 - Phi((log silence - mean) / sd)`: chance that a log-normal gap lasts longer."""
    z = (np.log(silence_ms) - np.asarray(mean)) / np.asarray(sd)
    return np.asarray(_erfc(z / sqrt(2.0)), np.float64) / 2


def silence_before(
    ts_ms: Ints, begins: NDArray[np.bool_], *, now_ms: ArrayLike, current: ArrayLike
) -> Ints:
    """`(...)` ms of silence that a session going on has ended, or else that lasts until now.

    Zero in the first session of all, and where there is none: nobody has come back.

    Args:
        current: `(...)` whether the newest interaction is of the session going on, see
            `models.memory.sessions.is_current`.
    """
    shape = ts_ms.shape[:-1]
    asked = (np.broadcast_to(each, shape).reshape(-1).tolist() for each in (now_ms, current))
    rows = zip(visits(ts_ms, begins), *asked, strict=True)
    return np.array([one.silence(*moment) for one, *moment in rows]).reshape(shape)


def temper(gap_ms: Any, half_life_ms: int) -> Any:
    """Weight `2^(-gap / half-life)` of long memory after a silence: who returns may have changed.

    Taken from `silence_before`, it stays the same throughout the session of the return.
    """
    return 2.0 ** (-gap_ms / half_life_ms)
