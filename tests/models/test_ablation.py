"""Readings of memory: levels that are kept or not, and somebody else's memory as a placebo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import ablation
from models.ablation import PLACEBO, READINGS, partners, reading
from models.features import LEVELS
from models.memory import fold, user_features, view
from tests.models import small

EXAMPLES = small.planted().examples
ROWS = small.planted().rows("validate")
MEMORY = small.MODEL.memory


def read(name: str, rows: np.ndarray = ROWS) -> small.UserSide:
    return reading(EXAMPLES, name, rows=rows, memory=MEMORY)(rows)


def sizes_of(users: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How many events each user had when each request was made."""
    moments = EXAMPLES.requests.as_of_ms[rows]
    pairs = zip(users.tolist(), moments.tolist(), strict=True)
    return np.asarray([len(EXAMPLES.histories.seen(user, moment)) for user, moment in pairs])


def test_there_is_a_reading_of_each_level_of_all_and_of_none():
    assert list(READINGS) == ["none", *(f"{level} only" for level in LEVELS), "all"]
    own = EXAMPLES.user_side(ROWS)
    assert small.same(read("all"), own)
    for number, level in enumerate(LEVELS):
        only = read(f"{level} only")
        assert torch.equal(only.recent, own.recent & (number == 0))
        assert torch.equal(only.sessions, own.sessions & (number == 1))
        assert torch.equal(only.long, own.long * (number == 2))
    nothing = read("none")
    assert not nothing.recent.any()
    assert not nothing.sessions.any()
    assert not nothing.long.any()
    for name in READINGS:
        assert torch.equal(read(name).context, own.context), "the context is not memory"


def test_an_unknown_reading_is_named():
    with pytest.raises(ValueError, match=r"no reading 'most'; there are none, .*another user's"):
        reading(EXAMPLES, "most", rows=ROWS, memory=MEMORY)


def test_partners_are_others_with_about_as_much_memory():
    rows = np.arange(len(EXAMPLES.requests))
    users = EXAMPLES.requests.user
    found = partners(EXAMPLES, rows)
    assert (found != users).all()
    own, other = sizes_of(users, rows), sizes_of(found, rows)
    # Nobody is more than two of the world's sessions of four events away, the heaviest included.
    assert np.abs(own - other).max() <= 8
    assert np.abs(own - other).mean() < 2


def test_the_heaviest_users_do_not_get_the_memory_of_the_lightest():
    events = small.planted_rows()
    heavy = [row for row in events if row["user_id"] == "user-00"]
    # One user with four times the events of any other, and with many requests.
    more = [
        {
            **row,
            "event_id": f"{row['event_id']}-{n}",
            "ts": int(row["ts"]) + 1000 * (n + 1),
            "session_id": f"{row['session_id']}-{n}",
        }
        for row in heavy
        for n in range(3)
    ]
    light = [row for row in events if row["user_id"] == "user-23"][-4:]
    kept = [row for row in events if row["user_id"] != "user-23"]
    world = small.Small(small.table_of([*kept, *more, *light]))
    rows = np.arange(len(world.examples.requests))
    users, moments = world.examples.requests.user, world.examples.requests.as_of_ms
    names = world.examples.histories.users.to_pylist()
    found = partners(world.examples, rows)
    for row in np.flatnonzero(users == names.index("user-00"))[-5:]:
        other = world.examples.histories.seen(int(found[row]), int(moments[row]))
        assert len(other) >= 16


def test_the_placebo_reads_the_partners_events_before_the_request():
    other = partners(EXAMPLES, ROWS)
    side, own = read(PLACEBO), EXAMPLES.user_side(ROWS)
    for place, row in enumerate(ROWS):
        now = int(EXAMPLES.requests.as_of_ms[row])
        seen = EXAMPLES.histories.seen(int(other[place]), now)
        newest = seen[-EXAMPLES.features.history :]
        places = EXAMPLES.catalogue.places(newest["item"])
        assert side.item[place].tolist()[-len(newest) :] == places.tolist()
        assert side.recent[place].sum() == len(newest)
        ages = (now - newest["ts"]) / 86_400_000
        assert side.age_days[place].numpy()[-len(newest) :] == pytest.approx(ages)
        long = user_features(view(fold(seen, MEMORY.state), now_ms=now, spec=MEMORY))
        assert side.long[place].numpy().tobytes() == long.tobytes()
    # What is no memory stays the request's own.
    assert torch.equal(side.context, own.context)
    assert torch.equal(side.now_days, own.now_days)


def test_the_placebo_is_the_same_in_parts():
    given = reading(EXAMPLES, PLACEBO, rows=ROWS, memory=MEMORY)
    whole = given(ROWS)
    assert small.same(given(ROWS[5:9]), small.rows_of(whole, [5, 6, 7, 8]))


def test_a_single_user_has_no_partner():
    user = EXAMPLES.requests.user
    rows = np.flatnonzero(user == user[0])
    assert len(rows) > 1
    for some in (rows, rows[:1]):
        with pytest.raises(ValueError, match="requests of at least two users"):
            reading(EXAMPLES, ablation.PLACEBO, rows=some, memory=MEMORY)


def test_a_stale_memory_is_what_was_there_some_days_before_read_now():
    days = 7
    side = read(ablation.stale(days * 86_400_000))
    fresh = EXAMPLES.user_side(ROWS)
    for place, row in enumerate(ROWS):
        user, now = int(EXAMPLES.requests.user[row]), int(EXAMPLES.requests.as_of_ms[row])
        seen = EXAMPLES.histories.seen(user, now - days * 86_400_000)
        newest = seen[-EXAMPLES.features.history :]
        assert side.recent[place].sum() == len(newest)
        ages = side.age_days[place].numpy()[8 - len(newest) :]
        assert ages == pytest.approx((now - newest["ts"]) / 86_400_000)
        assert (ages >= days).all()
        assert (side.session[place][side.recent[place]] > 0).all(), "the session is younger"
        long = user_features(view(fold(seen, MEMORY.state), now_ms=now, spec=MEMORY))
        assert side.long[place].numpy().tobytes() == long.tobytes()
    assert torch.equal(side.now_days, fresh.now_days)
    assert ablation.stale(days * 86_400_000) == "7d old"


def test_a_memory_of_the_moment_is_that_of_the_request():
    assert small.same(read(ablation.stale(0)), EXAMPLES.user_side(ROWS))
