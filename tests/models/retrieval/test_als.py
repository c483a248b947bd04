"""ALS: it finds what users of one taste share, for those who came after the fit as well."""

from __future__ import annotations

import numpy as np
import pytest

from models.retrieval import als
from models.retrieval.baselines import Interactions, Requests

pytestmark = pytest.mark.skipif(not als.is_there(), reason="`implicit` is in the dev extra only")
NUM_ITEMS = 12


def log_of(rows):
    user, item, ts = np.asarray(sorted(rows, key=lambda row: row[2]), np.int64).reshape(-1, 3).T
    return Interactions(user, item, ts, np.ones(len(user), bool), NUM_ITEMS)


def two_tastes():
    """Users of even number like items 1 to 6, the others 7 to 12; each lacks one of theirs."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(40):
        own = np.arange(1, 7) + 6 * (user % 2)
        rows += [(user, int(item), 1) for item in rng.choice(own, 5, replace=False)]
    return rows


def scores(log, fit, requests, **changes):
    made = als.Als(log, fit=fit, factors=4, **changes)
    user, as_of = np.asarray(requests, np.int64).T
    return np.concatenate(list(made.scores(Requests(user, as_of))))


def test_a_new_user_is_known_by_what_they_chose():
    fit = log_of(two_tastes())
    log = log_of([*two_tastes(), (99, 8, 2), (99, 9, 2)])
    found = scores(log, fit, [(99, 5), (50, 5)])
    assert found.shape == (2, NUM_ITEMS + 1)
    assert np.isneginf(found[:, 0]).all()
    assert found[0, 7:].mean() > 10 * abs(found[0, 1:7]).mean()
    assert not found[1, 1:].any(), "nobody is nothing"


def test_what_comes_at_or_after_a_request_is_not_seen():
    fit = log_of(two_tastes())
    log = log_of([*two_tastes(), (99, 1, 2), (99, 8, 5)])
    before = scores(log, fit, [(99, 5)])
    without = scores(log_of([*two_tastes(), (99, 1, 2)]), fit, [(99, 5)])
    assert np.allclose(before[:, 1:], without[:, 1:], atol=1e-5)


def test_the_same_seed_gives_the_same_scores():
    log = log_of(two_tastes())
    one, two = (scores(log, log, [(3, 5)], seed=2) for _ in range(2))
    assert one.tobytes() == two.tobytes()
