"""Sessions: the gap rule, given ids, both mixed; and many padded rings at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import INTERACTION, Interactions
from models.memory import sessions
from models.memory.ring import canonical
from tests.models.memory import oracle
from tests.models.memory.strategies import offsets_ms, records, some

GAP_MS = 30


def at(times: list[int], ids: list[int] | None = None) -> Interactions:
    events = np.zeros(len(times), INTERACTION)
    events["ts"], events["session"] = times, ids or 0
    return events


@pytest.mark.parametrize(
    ("times", "ids", "begins"),
    [
        ([], [], []),
        ([5], [0], [1]),
        ([0, 30, 60], [0, 0, 0], [1, 0, 0]),  # a gap of exactly the limit does not end one
        ([0, 31, 60], [0, 0, 0], [1, 1, 0]),
        ([0, 500, 501], [7, 7, 8], [1, 0, 1]),  # given ids win over any silence
        ([0, 1, 2], [7, 8, 7], [1, 1, 1]),  # sessions are stretches of time: no return to one
        ([0, 10, 20], [7, 0, 8], [1, 0, 0]),  # one without an id joins its neighbours by the gap
        ([0, 40, 80], [7, 0, 7], [1, 1, 1]),
        ([0, 0, 0], [0, 0, 0], [1, 0, 0]),
    ],
)
def test_where_sessions_begin(times: list[int], ids: list[int], begins: list[int]) -> None:
    assert sessions.starts(at(times, ids), GAP_MS).astype(int).tolist() == begins


@pytest.mark.parametrize(
    ("last", "now", "session", "expected"),
    [
        (0, 130, 0, True),  # silence of exactly the gap
        (0, 131, 0, False),
        (7, 9_999, 7, True),  # the same named session however long the silence
        (7, 101, 8, False),
        (7, 101, 0, True),  # a request without an id: the gap decides
        (7, 131, 0, False),
        (0, 101, 8, True),
        (0, 90, 0, True),  # a clock that runs ahead
    ],
)
def test_whether_the_last_session_goes_on(
    last: int, now: int, session: int, expected: bool
) -> None:
    ring = at([0, 100], [0, last])
    told = sessions.is_current(ring, now_ms=now, session=session, gap_ms=GAP_MS)
    assert bool(told) is expected
    ranks = sessions.ranks(ring, now_ms=now, session=session, gap_ms=GAP_MS)
    assert ranks.tolist() == ([1, 0] if expected else [2, 1])


def test_nobody_has_a_session() -> None:
    assert not sessions.is_current(at([]), now_ms=1, session=7, gap_ms=GAP_MS)
    assert sessions.ranks(at([]), now_ms=1, session=7, gap_ms=GAP_MS).tolist() == []


rings = records(max_size=12).map(canonical)
asked = st.tuples(offsets_ms, st.integers(0, 3))


@some
@given(rings, asked, st.sampled_from([0, 60_000, 1_800_000, 86_400_000]))
def test_ranks_are_what_a_loop_finds(
    ring: Interactions, request: tuple[int, int], gap_ms: int
) -> None:
    wait, session = request
    now = int(ring["ts"].max(initial=0)) + wait
    told = sessions.ranks(ring, now_ms=now, session=session, gap_ms=gap_ms)
    expected = oracle.session_ranks(
        oracle.events_of(ring), now_ms=now, session=session, gap_ms=gap_ms
    )
    assert told.tolist() == expected
    begins = sessions.starts(ring, gap_ms)
    assert begins.sum() == len(oracle.sessions(oracle.events_of(ring), gap_ms))


@some
@given(st.lists(st.tuples(rings, asked), min_size=1, max_size=4))
def test_many_rings_at_once_are_each_alone(
    batch: list[tuple[Interactions, tuple[int, int]]],
) -> None:
    gap_ms, width = 1_800_000, max(len(ring) for ring, _ in batch)
    padded = np.zeros((len(batch), width), INTERACTION)
    for row, (ring, _) in zip(padded, batch, strict=True):
        row[width - len(ring) :] = ring
    now = np.array([ring["ts"].max(initial=0) + wait for ring, (wait, _) in batch])
    named = np.array([session for _, (_, session) in batch])
    told = sessions.ranks(padded, now_ms=now, session=named, gap_ms=gap_ms)
    for place, (ring, (_, session)) in enumerate(batch):
        alone = sessions.ranks(ring, now_ms=now[place], session=session, gap_ms=gap_ms)
        assert told[place, width - len(ring) :].tolist() == alone.tolist()
