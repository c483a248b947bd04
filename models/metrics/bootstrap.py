"""Confidence intervals of per-request metrics by a cluster bootstrap over users.

One user's requests resemble each other, so requests are not independent draws; users are. The
bootstrap therefore redraws users with all their requests (Field and Welsh, 2007).
Shapes: `R` requests, `M` metrics, `U` users, `S` resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WEIGHTS_AT_ONCE = 4_000_000  # users times resamples held in memory together (about 100 MB)


@dataclass(frozen=True)
class Interval:
    """The mean over requests and its 95 % percentile interval: (M,) each, one value a metric."""

    mean: Floats
    low: Floats
    high: Floats


def by_user(
    values: Floats, users: NDArray[np.generic], *, num_samples: int = 1000, seed: int
) -> Interval:
    """Mean of `values` (R, M) over requests, with an interval from redrawing `users` (R,).

    A resample draws U users with replacement and averages over the requests of those drawn.
    The same seed, users and num_samples give the same resamples, in whatever order the rows stand.
    Raises ValueError on values that are not finite or on fewer than two users.
    """
    _check(values, users, num_samples)
    values = np.asarray(values, dtype=np.float64)  # float32 sums would drift
    owners, owner = np.unique(users, return_inverse=True)
    num_users = len(owners)
    if num_users < 2:
        raise ValueError("by_user: one user only; users are what is redrawn, so pass two or more")
    counts = np.bincount(owner, minlength=num_users)
    sums = np.zeros((num_users, values.shape[1]))
    np.add.at(sums, owner, values)
    means = _resampled_means(sums, counts, num_samples=num_samples, seed=seed)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return Interval(mean=values.mean(axis=0), low=low, high=high)


def paired_difference(
    values: Floats,
    other: Floats,
    users: NDArray[np.generic],
    *,
    num_samples: int = 1000,
    seed: int,
) -> Interval:
    """Interval of mean(values) - mean(other), both (R, M) over the same requests in one order.

    Each resample serves both sides, so what they share cancels. Both means have one divisor, so
    this is exactly the bootstrap of the per-request differences. Errors as in `by_user`.
    """
    if values.shape != other.shape:
        raise ValueError(
            f"paired_difference: shapes {values.shape} and {other.shape} differ;"
            " measure both sides on the same requests"
        )
    return by_user(values - other, users, num_samples=num_samples, seed=seed)


def _resampled_means(
    sums: Floats, counts: NDArray[np.int64], *, num_samples: int, seed: int
) -> Floats:
    """(S, M) means over requests in each resample, from per-user `sums` (U, M), `counts` (U,)."""
    rng = np.random.default_rng(seed)
    num_users = len(counts)
    totals = np.concatenate([sums, counts[:, None]], axis=1)  # (U, M + 1): one product gives both
    step = max(1, _WEIGHTS_AT_ONCE // num_users)
    means = []
    for start in range(0, num_samples, step):
        rows = min(step, num_samples - start)
        drawn = rng.integers(num_users, size=(rows, num_users))
        drawn += np.arange(rows)[:, None] * num_users
        times = np.bincount(drawn.ravel(), minlength=rows * num_users).reshape(rows, num_users)
        redrawn = times.astype(np.float64) @ totals
        means.append(redrawn[:, :-1] / redrawn[:, -1:])
    return np.concatenate(means)


def _check(values: Floats, users: NDArray[np.generic], num_samples: int) -> None:
    if values.ndim != 2 or users.shape != values.shape[:1]:
        raise ValueError(
            f"bootstrap: values have shape {values.shape} and users {users.shape};"
            " pass (R, M) and (R,)"
        )
    if not np.isfinite(values).all():
        raise ValueError("bootstrap: values are not all finite; drop requests without the metric")
    if num_samples < 1:
        raise ValueError(f"bootstrap: num_samples={num_samples}; pass at least 1 (1000 is usual)")
