"""The lifelong read beside a loop over the whole history, in batch and online."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import Histories, StateSpec
from models.memory.lifelong import Lifelong, choose, inner, nearest
from tests.models.memory import oracle
from tests.models.memory.strategies import ORIGIN_MS, SPEC, histories, moments, some
from tests.models.stores import world

VECTORS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
"""Of items 0 to 5; the item 0 has none."""
VECTORS[0], VECTORS[3] = 0, VECTORS[4]  # two items are alike


def recalled_slowly(
    seen: Interactions, interests: list[int], *, recent: int, num: int, spec: StateSpec
) -> list[oracle.Event]:
    """What `MemoryStore.nearest` promises, from everything that the store has."""
    kept = [event for event in oracle.events_of(seen) if not oracle.is_shown(event, spec)]
    found = set(kept[len(kept) - min(recent, len(kept)) :])
    for interest in interests:
        of_interest = [event for event in kept if event.interest == interest]
        found |= set(of_interest[len(of_interest) - min(num, len(of_interest)) :])
    return sorted(found)


def chosen_slowly(
    recalled: list[oracle.Event], query: np.ndarray | None, *, recent: int, num: int
) -> list[oracle.Event]:
    """The last ones, and those that are nearest of the others."""
    edge = max(len(recalled) - recent, 0)
    others = recalled[:edge]
    if query is not None:
        others = sorted(others, key=lambda e: (float((query * VECTORS[e.item]).sum()), e))
    return sorted([*others[len(others) - min(num, len(others)) :], *recalled[edge:]])


def as_records(events: list[oracle.Event]) -> Interactions:
    return np.array(events, INTERACTION)


@some
@given(st.data())
def test_batch_is_online_and_both_are_a_loop(data: st.DataObject) -> None:
    stored = data.draw(histories())
    spec = SPEC.model_copy(update={"shown": data.draw(st.sampled_from([0, 5]))})
    num_readings, width = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    users = [data.draw(st.integers(-1, len(stored.users) - 1)) for _ in range(num_readings)]
    as_of = [data.draw(moments(stored.arrived)) for _ in range(num_readings)]
    bucket = st.integers(-1, SPEC.num_interests - 1)
    interests = [[data.draw(bucket) for _ in range(width)] for _ in range(num_readings)]
    recent, num = data.draw(st.integers(0, spec.ring)), data.draw(st.integers(0, 6))
    pool = data.draw(st.integers(0, 8))
    query = np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=(num_readings, 5))
    with_query = data.draw(st.booleans())

    def similarity(rows: np.ndarray) -> np.ndarray:
        return inner(query, VECTORS[stored.interactions["item"][rows]])

    rows = Lifelong(stored, spec).read(
        np.array(users),
        np.array(as_of),
        np.array(interests, np.int64).reshape(num_readings, width),
        recent=recent,
        num=num,
        pool=pool,
        similarity=similarity if with_query else None,
    )
    assert rows.shape == (num_readings, recent + num)
    for row, (user, moment) in enumerate(zip(users, as_of, strict=True)):
        seen = stored.seen(user, moment) if user >= 0 else stored.interactions[:0]
        recalled = recalled_slowly(seen, interests[row], recent=recent, num=pool, spec=spec)
        near = query[row] if with_query else None
        expected = as_records(chosen_slowly(recalled, near, recent=recent, num=num))
        online = nearest(
            as_records(recalled),
            recent=recent,
            num=num,
            query=near,
            vectors=VECTORS[as_records(recalled)["item"]],
        )
        assert online.tobytes() == expected.tobytes()
        found = rows[row]
        missing = len(found) - len(expected)
        assert (found[:missing] == -1).all()
        assert stored.interactions[found[missing:]].tobytes() == expected.tobytes()


def long_world(num_users: int, per_user: int, *, most_late_days: int) -> Histories:
    """Long histories over a year; a third of the events arrives up to so many days late."""
    rng, num = np.random.default_rng(per_user), num_users * per_user
    events = np.zeros(num, INTERACTION)
    events["ts"] = ORIGIN_MS + rng.integers(0, 365 * 24, num) * (DAY_MS // 24)
    events["event"], events["item"] = rng.permutation(num) + 1, rng.integers(0, 6, num)
    events["interest"] = rng.integers(0, SPEC.num_interests, num)
    events["action"] = rng.choice([ACTIONS[n].code for n in ("view", "impression", "state")], num)
    users = np.repeat(np.arange(num_users), per_user)
    events = events[np.lexsort((events["event"], events["ts"], users))]
    late = rng.integers(0, most_late_days * DAY_MS + 1, num) * (rng.integers(0, 3, num) == 0)
    names = pa.array([f"u{n}" for n in range(num_users)])
    return Histories(names, np.arange(num_users + 1) * per_user, events, events["ts"] + late)


@pytest.mark.parametrize("most_late_days", [0, 3, 400])
@pytest.mark.parametrize("per_user", [1, 2, 63, 300])
def test_long_histories_at_any_moment(per_user: int, most_late_days: int) -> None:
    stored, rng = long_world(3, per_user, most_late_days=most_late_days), np.random.default_rng(1)
    users = rng.integers(-1, 3, 80)
    as_of = stored.arrived[rng.integers(0, 3 * per_user, 80)] + rng.integers(-1, 2, 80)
    interests = rng.integers(-1, SPEC.num_interests, (80, 2)).astype(np.int16)
    rows = Lifelong(stored, SPEC).recall(users, as_of, interests, recent=4, num=7)
    for row, found in enumerate(rows):
        seen = stored.seen(users[row], as_of[row]) if users[row] >= 0 else stored.interactions[:0]
        seen = seen[seen["action"] != ACTIONS["state"].code]
        buckets = interests[row].tolist()
        expected = as_records(recalled_slowly(seen, buckets, recent=4, num=7, spec=SPEC))
        assert stored.interactions[found[found >= 0]].tobytes() == expected.tobytes()


def test_an_old_event_of_the_interest_is_read_and_a_newer_one_of_another_is_not() -> None:
    stored = long_world(1, 300, most_late_days=0)
    events = stored.interactions
    events["interest"], events["action"] = 1, ACTIONS["view"].code
    events["interest"][3] = 2
    now, user = stored.arrived[-1:] + 1, np.array([0])
    rows = Lifelong(stored, SPEC).read(user, now, np.array([[2]]), recent=2, num=3)
    assert rows.tolist() == [[-1, -1, 3, 298, 299]]


def test_of_equals_the_newest_is_chosen_and_what_has_no_likeness_last() -> None:
    rows = np.array([[-1, 4, 5, 6, 7, 8]])
    similar = np.array([[9.0, 1.0, np.nan, 1.0, 0.5, 7.0]])
    assert choose(rows, similar, recent=1, num=1).tolist() == [[6, 8]]
    assert choose(rows, similar, recent=1, num=3).tolist() == [[4, 6, 7, 8]]
    assert choose(rows, similar, recent=1, num=4).tolist() == [[4, 5, 6, 7, 8]]
    assert choose(rows, None, recent=0, num=2).tolist() == [[7, 8]]


def test_more_recent_events_than_a_ring_has_are_refused() -> None:
    lifelong = Lifelong(long_world(1, 5, most_late_days=0), SPEC)
    nobody, moment = np.array([-1]), np.array([0])
    with pytest.raises(ValueError, match="the last 8"):
        lifelong.read(nobody, moment, np.zeros((1, 1)), recent=SPEC.ring + 1, num=1)


def test_what_a_store_recalls_is_what_the_batch_recalls(tmp_path: Path) -> None:
    table = world.mixed(range(400), num_users=2)
    with_store = world.open_lmdb(tmp_path)
    with_store.apply_many(table)
    users = ["u0", "u1"]
    logs = [with_store.interactions(user) for user in users]
    stored = Histories(
        pa.array(users),
        np.cumsum([0, *map(len, logs)]),
        np.concatenate(logs),
        np.concatenate([log["ts"] for log in logs]),
    )
    interests = np.array([[1, 3], [2, 2]])
    now = np.full(2, world.NOW + 1)
    rows = Lifelong(stored, SPEC).recall(np.arange(2), now, interests, recent=6, num=9)
    for user, buckets, found in zip(users, interests.tolist(), rows, strict=True):
        recalled = with_store.nearest(user, interests=buckets, recent=6, num=9)
        assert len(recalled) > 9
        assert stored.interactions[found[found >= 0]].tobytes() == recalled.tobytes()
    with_store.close()
