"""Point in time: what a request may see, and that the batch build agrees with the online one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import EMPTY, encode, fold, update
from models.memory.histories import Histories
from tests.models.memory.strategies import ORIGIN_MS, SPEC, few, histories, moments, some


def seen_slowly(stored: Histories, user: int, as_of_ms: int) -> list[int]:
    """Rows of one user's events that had arrived before a moment, in time order."""
    rows = range(int(stored.offsets[user]), int(stored.offsets[user + 1]))
    return [row for row in rows if stored.arrived[row] < as_of_ms]


def small(**changes: object) -> Histories:
    """Two users with two events each; the second user's older event arrived last."""
    interactions = np.zeros(4, INTERACTION)
    interactions["ts"], interactions["event"] = [10, 20, 10, 20], [1, 2, 3, 4]
    columns = {
        "users": pa.array(["a", "b"]),
        "offsets": np.array([0, 2, 4]),
        "interactions": interactions,
        "arrived": np.array([10, 20, 40, 20]),
    }
    return Histories(**{**columns, **changes})  # type: ignore[arg-type]


def stored_events(ts: list[int], event: list[int]) -> Interactions:
    events = np.zeros(4, INTERACTION)
    events["ts"], events["event"] = ts, event
    return events


@some
@given(st.data())
def test_seen_and_ring_rows_are_what_a_loop_finds(data: st.DataObject) -> None:
    stored = data.draw(histories())
    num = data.draw(st.integers(1, 5))
    users = [data.draw(st.integers(-1, len(stored.users) - 1)) for _ in range(num)]
    as_of = [data.draw(moments(stored.arrived)) for _ in range(num)]
    capacity = data.draw(st.integers(1, 20))
    spec = SPEC.model_copy(update={"ring": capacity, "shown": data.draw(st.integers(0, 1))})
    rows = stored.ring_rows(np.array(users), np.array(as_of), spec)
    for user, moment, found in zip(users, as_of, rows.tolist(), strict=True):
        expected = seen_slowly(stored, user, moment) if user >= 0 else []
        if user >= 0:
            assert stored.seen(user, moment).tobytes() == stored.interactions[expected].tobytes()
        if spec.shown:
            impression = ACTIONS["impression"].code
            expected = [n for n in expected if stored.interactions["action"][n] != impression]
        last = expected[-capacity:]
        assert found == [-1] * (capacity - len(last)) + last


@some
@given(st.data())
def test_batch_is_online_byte_for_byte(data: st.DataObject) -> None:
    stored = data.draw(histories())
    user = data.draw(st.integers(0, len(stored.users) - 1))
    as_of = data.draw(moments(stored.arrived))
    mine = np.arange(stored.offsets[user], stored.offsets[user + 1])
    online = EMPTY
    for row in mine[np.argsort(stored.arrived[mine], kind="stable")]:
        if stored.arrived[row] < as_of:
            online = update(online, stored.interactions[row : row + 1], SPEC)
    batch = fold(stored.seen(user, as_of), SPEC)
    assert encode(batch, SPEC) == encode(online, SPEC)
    rows = stored.ring_rows(np.array([user]), np.array([as_of]), SPEC)[0]
    assert stored.interactions[rows[rows >= 0]].tobytes() == online.ring.tobytes()


@few
@given(histories())
def test_late_users_are_those_with_a_disordered_arrival(stored: Histories) -> None:
    expected = [
        any(np.diff(stored.arrived[low:high]) < 0)
        for low, high in zip(stored.offsets, stored.offsets[1:], strict=False)
    ]
    assert stored.late.tolist() == expected


def test_an_event_that_arrives_at_the_as_of_is_not_seen() -> None:
    assert small().seen(0, 20)["event"].tolist() == [1]
    assert small().seen(0, 21)["event"].tolist() == [1, 2]


def test_a_late_event_takes_its_place_in_time_once_it_arrived() -> None:
    stored = small()
    assert stored.late.tolist() == [False, True]
    assert stored.seen(1, 40)["event"].tolist() == [4]
    assert stored.seen(1, 41)["event"].tolist() == [3, 4]
    both = stored.ring_rows(np.array([1, 1]), np.array([40, 41]), SPEC, 3)
    assert both.tolist() == [[-1, -1, 3], [-1, 2, 3]]


@few
@given(histories())
def test_the_table_gives_the_histories_back(stored: Histories) -> None:
    again = Histories.from_table(stored.to_table())
    assert again.users.equals(stored.users)
    assert again.offsets.tolist() == stored.offsets.tolist()
    assert again.interactions.tobytes() == stored.interactions.tobytes()
    assert again.arrived.tolist() == stored.arrived.tolist()
    assert again.late.tolist() == stored.late.tolist()


def test_nobody_is_a_history_too() -> None:
    nobody = Histories(
        users=pa.array([], pa.string()),
        offsets=np.zeros(1, np.int64),
        interactions=np.zeros(0, INTERACTION),
        arrived=np.zeros(0, np.int64),
    )
    assert nobody.ring_rows(np.array([-1]), np.array([ORIGIN_MS]), SPEC, 2).tolist() == [[-1, -1]]
    assert len(Histories.from_table(nobody.to_table()).users) == 0


def test_a_user_without_events_is_read_but_leaves_no_row_in_a_table() -> None:
    stored = small(users=pa.array(["a", "none", "b"]), offsets=np.array([0, 2, 2, 4]))
    assert len(stored.seen(1, ORIGIN_MS)) == 0
    assert stored.late.tolist() == [False, False, True]
    assert stored.ring_rows(np.array([1]), np.array([ORIGIN_MS]), SPEC, 2).tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="user 'none' has no events"):
        stored.to_table()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offsets": np.array([0, 4])}, "offsets do not fit"),
        ({"offsets": np.array([0, 2, 3])}, "offsets do not fit"),
        ({"offsets": np.array([0, 5, 4])}, "offsets do not fit"),
        ({"offsets": np.array([1, 2, 4])}, "offsets do not fit"),
        ({"arrived": np.array([1, 2, 3])}, "one arrival per interaction"),
        ({"interactions": stored_events([20, 10, 1, 2], [1, 2, 3, 4])}, "order"),
        ({"interactions": stored_events([10, 10, 1, 2], [2, 1, 3, 4])}, "order"),
        ({"interactions": stored_events([10, 10, 1, 2], [1, 1, 3, 4])}, "distinct"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small(**changes)


def test_a_table_with_a_user_in_two_places_is_refused() -> None:
    table = small().to_table()
    with pytest.raises(ValueError, match="must lie together"):
        Histories.from_table(table.take([0, 2, 1, 3]))
