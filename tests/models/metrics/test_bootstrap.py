"""The user bootstrap: exact means, honest widths, one set of resamples for both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import bootstrap
from models.metrics.bootstrap import by_user, paired_difference

ROWS = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=2, max_size=30)


def planted(seed: int, num_users: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Users of 1 to 5 requests each; a request is its user's level plus noise. The mean is 0.3."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), rng.integers(1, 6, size=num_users))
    levels = rng.normal(0.3, 0.1, size=num_users)
    return (levels[users] + rng.normal(0, 0.05, size=len(users)))[:, None], users


@given(ROWS, st.integers(0, 9))
def test_mean_is_the_plain_mean_over_requests(rows: list[tuple[int, float]], seed: int) -> None:
    users, values = np.array([u for u, _ in rows]), np.array([[v, 1 - v] for _, v in rows])
    if len(set(users.tolist())) < 2:
        with pytest.raises(ValueError, match="one user only"):
            by_user(values, users, seed=seed)
        return
    interval = by_user(values, users, num_samples=50, seed=seed)
    np.testing.assert_array_equal(interval.mean, values.mean(axis=0))
    # A resampled mean is a mean of requests, so it cannot leave their range.
    assert np.all(values.min(axis=0) - 1e-12 <= interval.low)
    assert np.all(interval.low <= interval.high)
    assert np.all(interval.high <= values.max(axis=0) + 1e-12)


def test_intervals_cover_the_planted_mean_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(200):
        values, users = planted(seed)
        interval = by_user(values, users, num_samples=400, seed=seed)
        covered += bool(interval.low[0] <= 0.3 <= interval.high[0])
    assert 178 <= covered <= 200  # nominal 190


def test_width_equals_the_spread_of_brute_force_resampling() -> None:
    values, users = planted(1, num_users=12)
    rng = np.random.default_rng(7)
    means = []
    for _ in range(4000):
        drawn = rng.choice(12, size=12)
        means.append(np.concatenate([values[users == user, 0] for user in drawn]).mean())
    interval = by_user(values, users, num_samples=4000, seed=0)
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose([interval.low[0], interval.high[0]], expected, atol=0.006)


def test_a_user_with_many_requests_widens_the_interval() -> None:
    values = np.array([[1.0]] * 100 + [[0.0]] * 100)
    heavy = np.concatenate([np.zeros(100, dtype=np.int64), np.arange(1, 101)])
    naive = by_user(values, np.arange(200), seed=0)
    clustered = by_user(values, heavy, seed=0)
    width, naive_width = clustered.high - clustered.low, naive.high - naive.low
    assert width[0] > 3 * naive_width[0]


def test_seed_decides_and_neither_row_order_nor_blocks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    values, users = planted(3)
    first = by_user(values, users, seed=5)
    order = np.random.default_rng(0).permutation(len(users))
    shuffled = by_user(values[order], users[order], seed=5)
    np.testing.assert_allclose([first.low, first.high], [shuffled.low, shuffled.high], rtol=1e-12)
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 7 * 60)
    blocked = by_user(values, users, seed=5)
    np.testing.assert_allclose([first.low, first.high], [blocked.low, blocked.high], rtol=1e-12)
    assert by_user(values, users, seed=6).low[0] != first.low[0]


def test_users_may_be_names() -> None:
    values, users = planted(3)
    named = by_user(values, np.array([f"user{u:03}" for u in users]), seed=5)
    np.testing.assert_array_equal(named.low, by_user(values, users, seed=5).low)


def test_paired_difference_is_tighter_than_the_two_intervals() -> None:
    values, users = planted(4)
    better = values + 0.01
    lift = paired_difference(better, values, users, seed=0)
    np.testing.assert_allclose([lift.mean, lift.low, lift.high], 0.01)
    alone = by_user(values, users, seed=0)
    assert alone.high[0] - alone.low[0] > 0.02


def test_paired_difference_changes_sign_with_its_sides() -> None:
    values, users = planted(5)
    other = values[::-1].copy()
    there = paired_difference(values, other, users, seed=0)
    back = paired_difference(other, values, users, seed=0)
    np.testing.assert_allclose(there.mean, -back.mean)
    np.testing.assert_allclose([there.low, there.high], [-back.high, -back.low])


def test_bad_input_is_refused() -> None:
    values, users = np.array([[0.1], [0.2]]), np.array([1, 2])
    with pytest.raises(ValueError, match="shape"):
        by_user(values[:, 0], users, seed=0)
    with pytest.raises(ValueError, match="finite"):
        by_user(values * np.nan, users, seed=0)
    with pytest.raises(ValueError, match="num_samples=0"):
        by_user(values, users, num_samples=0, seed=0)
    with pytest.raises(ValueError, match="differ"):
        paired_difference(values, values[:1], users, seed=0)
