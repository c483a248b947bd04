"""What follows what: against a slow count of pairs, and what a request reads of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import DAY_MS
from models.retrieval.successors import SuccessorConfig, Successors
from tests.models.small import random_side

PLACES = 7
events = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, PLACES - 1), st.integers(0, 9)), max_size=25
)


def fold(log, config):
    log = sorted(log, key=lambda event: (event[0], event[2]))
    owner, item, day = (np.asarray(column, np.int64) for column in zip(*log, strict=True))
    return Successors.fold(owner, item, day * DAY_MS, num_places=PLACES, config=config)


def dense(successors):
    table = np.zeros((PLACES, PLACES))
    offsets = successors.offsets.tolist()
    for place in range(PLACES):
        some = slice(offsets[place], offsets[place + 1])
        table[place, successors.items[some]] = successors.weights[some]
    return table


def slowly(log, config):
    """Every pair of events of one user, one by one."""
    log = sorted(log, key=lambda event: (event[0], event[2]))
    log = [event for event in log if event[1] > 0]
    count = np.maximum(np.bincount([event[1] for event in log], minlength=PLACES), 1)
    table = np.zeros((PLACES, PLACES))
    for owner in range(3):
        mine = [event for event in log if event[0] == owner]
        for late, (_, then, when) in enumerate(mine):
            for early in range(max(late - config.window, 0), late):
                first, before = mine[early][1:]
                if first == then:
                    continue
                worth = config.fade ** (late - early - 1) / (1 + when - before) ** config.cooling
                table[first, then] += worth
                table[then, first] += config.back * worth
    table /= count[:, None] ** config.from_power * count[None] ** config.to_power
    tops = [row.max() for row in table if row.max() > 0]
    return table / (np.mean(tops) if tops else 1)


@settings(max_examples=150)
@given(events, st.integers(1, 5), st.sampled_from([0.0, 0.4, 1.0]))
def test_pairs_are_those_of_a_slow_count(log, window, back):
    config = SuccessorConfig(window=window, back=back, keep=PLACES)
    if log:
        np.testing.assert_allclose(dense(fold(log, config)), slowly(log, config), atol=1e-5)


def test_only_the_strongest_followers_are_kept():
    log = [(user, item, day) for user in range(3) for day, item in enumerate([1, 2, 3, 4, 5])]
    whole = dense(fold(log, SuccessorConfig(keep=PLACES)))
    cut = dense(fold(log, SuccessorConfig(keep=2)))
    for full, kept in zip(whole, cut, strict=True):
        best = np.sort(full)[-2:]
        assert set(kept[kept > 0].round(5)) <= set(best.round(5))
        assert (kept > 0).sum() == min(2, (full > 0).sum())


def test_a_request_reads_what_follows_its_deeds_the_newest_most():
    user = random_side(6)
    item, weight = torch.arange(31), torch.rand(31)
    offsets = torch.arange(32)  # each place is followed by one, itself plus one
    config = SuccessorConfig(recency=0.5, ageing=1.0)
    followers = Successors(offsets, (item + 1) % 31, weight, config)
    found = followers.read(user)
    assert found.shape == (6, 31)
    for row in range(6):
        expected, later, newest = torch.zeros(31), 0, None
        for column in reversed(range(user.item.shape[1])):
            place = int(user.item[row, column])
            from_one = user.recent[row, column] and place and _for(user.action[row, column])
            if from_one:
                age = float(user.age_days[row, column])
                newest = age if newest is None else newest
                worth = 0.5**later / (1 + age - newest)
                if worth > 1e-3:
                    expected[(place + 1) % 31] += worth * weight[place]
                later += 1
        assert torch.allclose(found[row], expected, atol=1e-5)
    assert not followers.read(user.keep(torch.zeros(6, 3, dtype=torch.bool))).any()


def _for(action):
    from models.events import POLARITY

    return POLARITY[int(action)] > 0


def test_nothing_follows_where_nothing_happened():
    config = SuccessorConfig()
    empty = np.zeros(0, np.int64)
    none = Successors.fold(empty, empty, empty, num_places=PLACES, config=config)
    assert not len(none.items)
    assert not math.isnan(float(none.weights.sum()))


@pytest.mark.parametrize("field", ["fade", "recency"])
def test_a_worth_that_would_grow_is_refused(field):
    with pytest.raises(ValueError, match="less than or equal to 1"):
        SuccessorConfig.model_validate({field: 1.5})
