"""Many readings of stored histories at once against the online path, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION
from models.memory import (
    Histories,
    MemorySpec,
    MemoryView,
    RateSpec,
    StateSpec,
    fold,
    user_features,
    view,
    views,
)
from models.memory.atoms import HistoryAtoms, of_state
from tests.models.memory.strategies import MEMORY, ORIGIN_MS, SPEC, histories, moments, some

RATED = MEMORY.model_copy(
    update={
        "view": MEMORY.view.model_copy(
            update={"rates": (RateSpec(name="bought", hits=("purchase",), tries=("view",)),)}
        )
    }
)


def assert_equal(many: MemoryView, row: int, one: MemoryView) -> None:
    """Every number has the same bits; rings differ by the padding in front."""
    for field in dataclasses.fields(MemoryView):
        found, expected = getattr(many, field.name)[row], getattr(one, field.name)
        if field.name in ("ring", "session_rank"):
            found = found[len(found) - len(expected) :]
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes(), field.name


def assert_batch_is_online(
    stored: Histories, users: np.ndarray, as_of: np.ndarray, spec: MemorySpec
) -> None:
    row = 0
    for many in views(stored, users, as_of, spec=spec):
        features = user_features(many)
        for place in range(len(many.now_ms)):
            user, moment = int(users[row]), int(as_of[row])
            seen = stored.seen(user, moment) if user >= 0 else stored.interactions[:0]
            one = view(fold(seen, spec.state), now_ms=moment, spec=spec)
            assert_equal(many, place, one)
            assert features[place].tobytes() == user_features(one).tobytes()
            row += 1
    assert row == len(users)


@some
@given(st.data())
def test_views_are_online_views(data: st.DataObject) -> None:
    stored = data.draw(histories())
    num = data.draw(st.integers(1, 6))
    users = [data.draw(st.integers(-1, len(stored.users) - 1)) for _ in range(num)]
    as_of = [data.draw(moments(stored.arrived)) for _ in range(num)]
    assert_batch_is_online(stored, np.array(users), np.array(as_of), RATED)


def world(seed: int, *, num_users: int, per_user: int, prompt: bool = True) -> Histories:
    """Long histories over three years with bursts; without `prompt` some events arrive late."""
    rng = np.random.default_rng(seed)
    num = num_users * per_user
    events = np.zeros(num, INTERACTION)
    bursts = rng.integers(0, 3 * 365 * DAY_MS, (num_users, max(per_user // 8, 1)))
    chosen = np.take_along_axis(bursts, rng.integers(0, bursts.shape[1], (num_users, per_user)), 1)
    events["ts"] = np.sort(ORIGIN_MS + chosen + rng.integers(0, 3_600_000, chosen.shape)).ravel()
    events["event"] = rng.permutation(num) + 1
    events["item"], events["session"] = rng.integers(1, 9, num), rng.integers(0, 4, num)
    events["interest"] = rng.integers(0, 4, num)
    events["action"] = rng.choice([a.code for a in ACTIONS.values() if a.code != 48], num)
    users = np.repeat(np.arange(num_users), per_user)
    events = events[np.lexsort((events["event"], events["ts"], users))]
    waits = 0 if prompt else rng.integers(0, 2, num) * rng.integers(0, 20 * DAY_MS, num)
    return Histories(
        users=pa.array([f"u{n}" for n in range(num_users)]),
        offsets=np.arange(num_users + 1) * per_user,
        interactions=events,
        arrived=events["ts"] + waits,
    )


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize(
    "spec",
    [
        StateSpec(ring=8, shown=4, num_interests=4),
        StateSpec(ring=1, shown=0, num_interests=4),
        SPEC,
        SPEC.model_copy(update={"levels": SPEC.levels[:1]}),
    ],
    ids=["default levels", "impressions in a ring of one", "small", "one level"],
)
def test_long_histories_with_every_kind_of_cut(spec: StateSpec, prompt: bool) -> None:
    stored = world(3, num_users=4, per_user=160, prompt=prompt)
    rng = np.random.default_rng(1)
    users = rng.integers(0, 4, 90)
    as_of = stored.arrived[stored.offsets[users] + rng.integers(0, 160, 90)] + rng.integers(
        -1, 2, 90
    )
    as_of[::7] += rng.integers(0, 400 * DAY_MS, len(as_of[::7]))
    assert_batch_is_online(stored, users, as_of, MEMORY.model_copy(update={"state": spec}))


def test_atoms_are_the_same_and_in_the_same_order_within_a_kind() -> None:
    stored = world(5, num_users=2, per_user=200)
    users, as_of = np.array([1, 0]), stored.arrived[[399, 150]]
    found = HistoryAtoms(stored, SPEC).read(users, as_of)
    for row, (user, moment) in enumerate(zip(users.tolist(), as_of.tolist(), strict=True)):
        expected = of_state(fold(stored.seen(user, moment), SPEC), SPEC)
        shown = ACTIONS["impression"].code
        for apart in (True, False):
            ours = (found.row == row) & ((found.action == shown) == apart)
            theirs = (expected.action == shown) == apart
            for name in ("start", "end", "action", "interest", "count", "event"):
                assert (
                    getattr(found, name)[ours].tolist() == getattr(expected, name)[theirs].tolist()
                )


def test_readings_do_not_depend_on_their_neighbours_or_on_the_run_they_fall_into() -> None:
    stored = world(7, num_users=3, per_user=40)
    users = np.tile([0, 1, 2], 200)
    as_of = np.tile(stored.arrived[[30, 70, 110]] + 1, 200)
    features = np.concatenate([user_features(m) for m in views(stored, users, as_of, spec=MEMORY)])
    assert (features.reshape(200, 3, -1) == features[:3]).all()


@some
@given(st.data())
def test_a_memory_may_be_older_than_its_reading(data: st.DataObject) -> None:
    stored = data.draw(histories())
    users = np.asarray([data.draw(st.integers(-1, len(stored.users) - 1)) for _ in range(4)])
    as_of = np.asarray([data.draw(moments(stored.arrived)) for _ in range(4)])
    now = as_of + np.asarray([data.draw(st.integers(0, 40 * DAY_MS)) for _ in range(4)])
    (many,) = views(stored, users, as_of, spec=RATED, now_ms=now)
    for row, (user, moment) in enumerate(zip(users.tolist(), as_of.tolist(), strict=True)):
        seen = stored.seen(user, moment) if user >= 0 else stored.interactions[:0]
        one = view(fold(seen, RATED.state), now_ms=int(now[row]), spec=RATED)
        assert_equal(many, row, one)
