"""Negative memory beside plain Python: each candidate alone, each event looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTION_NAMES, ACTIONS, INTERACTION, POLARITY, Interactions
from models.memory.negative import NegativeSpec, Refusal, attraction
from models.memory.spec import HOUR_MS
from tests.models.memory import oracle
from tests.models.memory.strategies import ORIGIN_MS, some

GAP_MS = HOUR_MS // 2
NOW = ORIGIN_MS + 200 * DAY_MS
TENT, LAMP, BOAT = 7, 8, 9
SPEC = NegativeSpec(
    refusals=(
        Refusal(action="dismiss", pause="14d", ramp="140d"),
        Refusal(action="decline", pause="2d", ramp=0),
    ),
    fatigue_half_life="7d",
    free=2,
    fatigue_strength=0.5,
)
NOTHING = np.zeros(0, INTERACTION)


def events(*rows: tuple[str, int, float] | tuple[str, int, float, int]) -> Interactions:
    """Rows of (action, item, days ago[, session])."""
    made = np.zeros(len(rows), INTERACTION)
    made["event"] = np.arange(1, len(rows) + 1)
    made["action"] = [ACTIONS[row[0]].code for row in rows]
    made["item"] = [row[1] for row in rows]
    made["ts"] = [NOW - round(row[2] * DAY_MS) for row in rows]
    made["session"] = [row[3] if len(row) > 3 else 0 for row in rows]
    return made


def read(ring: Interactions, *items: int, spec: NegativeSpec = SPEC) -> list[float]:
    keys = np.array(items or (TENT,), np.uint64)
    found = attraction(NOTHING, NOTHING, ring, keys, now_ms=NOW, gap_ms=GAP_MS, spec=spec)
    return found.tolist()


def plain(cells: list[Interactions], item: int, now_ms: int) -> float:
    """The multiplier of one item."""
    seen = {event for cell in cells for event in oracle.events_of(cell)}  # none twice
    of_item = sorted(event for event in seen if event.item == item and item)
    interest = [event for event in of_item if POLARITY[event.action] > 0]
    live = [event for event in of_item if not interest or event > interest[-1]]
    multiplier = 1.0
    for refusal in SPEC.refusals:
        for event in live:
            if ACTION_NAMES[event.action] == refusal.action:
                over = now_ms - event.ts - refusal.pause
                ramp = over / refusal.ramp if refusal.ramp else float(over > 0)
                multiplier = min(multiplier, max(0.0, min(1.0, ramp)))
    shown = [e for e in sorted(seen) if ACTION_NAMES[e.action] == "impression" and e.item]
    last: dict[object, oracle.Event] = {}
    for number, together in enumerate(oracle.sessions(shown, GAP_MS)):
        for event in set(together) & set(live):
            name = event.session or f"unnamed {number}"
            last[name] = max(event, last.get(name, event))
    ages = [max(now_ms - event.ts, 0) / DAY_MS for event in last.values()]
    tired = sum(0.5 ** (age / 7) for age in ages)
    return multiplier / (1 + 0.5 * max(tired - 2, 0))


@st.composite
def memories(draw: st.DrawFn) -> list[Interactions]:
    """Impressions, refusals and a ring; the ring holds some of the others, too."""
    size = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    names = ["impression"] * 6 + ["view", "dismiss", "decline", "cancel", "search"]
    made = np.zeros(size, INTERACTION)
    made["event"] = 1 + rng.permutation(size)
    made["action"] = [ACTIONS[name].code for name in rng.choice(names, size)]
    made["item"] = rng.integers(0, 4, size)
    made["session"] = rng.integers(0, 3, size)
    made["ts"] = NOW - rng.choice([HOUR_MS // 4, DAY_MS, 10 * DAY_MS], size) * rng.integers(
        0, 9, size
    )
    impression = made["action"] == ACTIONS["impression"].code
    refusal = POLARITY[made["action"]] < 0
    in_ring = (~impression & ~refusal) | (rng.random(size) < 0.5)
    return [made[impression], made[refusal], made[in_ring]]


@some
@given(memories())
def test_each_multiplier_is_what_plain_python_says(cells: list[Interactions]) -> None:
    items = np.array([3, 0, 1, 99, 2, 1], np.uint64)
    found = attraction(*cells, items, now_ms=NOW, gap_ms=GAP_MS, spec=SPEC)
    assert found == pytest.approx([plain(cells, int(key), NOW) for key in items], rel=1e-9)
    assert ((found >= 0) & (found <= 1)).all()


@some
@given(memories(), st.randoms(use_true_random=False))
def test_neither_the_order_of_events_nor_of_candidates_matters(
    cells: list[Interactions], random: object
) -> None:
    items = np.array([1, 2, 3, 1], np.uint64)
    found = attraction(*cells, items, now_ms=NOW, gap_ms=GAP_MS, spec=SPEC)
    shuffled = [cell[::-1] for cell in cells]
    again = attraction(*shuffled, items[::-1], now_ms=NOW, gap_ms=GAP_MS, spec=SPEC)
    assert again[::-1].tolist() == found.tolist()


def test_nothing_stands_against_what_is_not_known() -> None:
    assert read(NOTHING, TENT, 0) == [1.0, 1.0]
    assert read(events(("dismiss", LAMP, 1)), TENT, 0, LAMP) == [1.0, 1.0, 0.0]
    assert read(events(("dismiss", 0, 1)), 0) == [1.0]
    assert read(events(("dismiss", LAMP, 1)))[0] == 1.0


@pytest.mark.parametrize(
    ("days", "left"), [(0, 0), (13.9, 0), (14, 0), (84, 0.5), (153, 139 / 140), (154, 1), (999, 1)]
)
def test_a_dismissed_item_rests_and_comes_back_in_a_straight_line(days: float, left: float) -> None:
    assert read(events(("dismiss", TENT, days))) == [pytest.approx(left)]


def test_each_refusal_has_its_own_clock_and_the_strictest_holds() -> None:
    assert read(events(("decline", TENT, 1.9))) == [0.0]
    assert read(events(("decline", TENT, 2.1))) == [1.0]  # no ramp
    assert read(events(("decline", TENT, 2.1), ("dismiss", TENT, 84))) == [0.5]
    assert read(events(("cancel", TENT, 0))) == [1.0]  # this spec says nothing of it


def test_an_older_refusal_adds_nothing_to_a_newer_one() -> None:
    assert read(events(("dismiss", TENT, 100), ("dismiss", TENT, 84))) == [0.5]


@pytest.mark.parametrize("interest", ["view", "save", "purchase"])
def test_interest_after_a_refusal_lifts_it(interest: str) -> None:
    assert read(events(("dismiss", TENT, 5), (interest, TENT, 4))) == [1.0]
    assert read(events((interest, TENT, 6), ("dismiss", TENT, 5))) == [0.0]
    assert read(events(("dismiss", TENT, 5), (interest, LAMP, 4))) == [0.0]
    again = events(("dismiss", TENT, 9), (interest, TENT, 8), ("dismiss", TENT, 7))
    assert read(again) == [0.0]


def test_of_one_moment_the_order_is_that_of_memory() -> None:
    both = events(("dismiss", TENT, 5), ("view", TENT, 5))
    assert read(both) == [1.0]
    both["event"] = both["event"][::-1]
    assert read(both) == [0.0]


def test_ignored_impressions_wear_an_item_out() -> None:
    shown = [("impression", TENT, 0, session) for session in range(1, 7)]
    multipliers = [read(events(*shown[:num]))[0] for num in range(7)]
    assert multipliers == pytest.approx([1, 1, 1, 1 / 1.5, 1 / 2, 1 / 2.5, 1 / 3])
    week_ago = events(*((action, item, 7, session) for action, item, _, session in shown))
    assert read(week_ago, TENT, LAMP) == pytest.approx([1 / 1.5, 1])  # six count as three


def test_interest_after_the_impressions_clears_them() -> None:
    shown = [("impression", TENT, 3 - session / 9, session) for session in range(1, 6)]
    assert read(events(*shown))[0] < 0.8
    assert read(events(*shown, ("click", TENT, 1))) == [1.0]
    assert read(events(*shown, ("click", LAMP, 1)))[0] < 0.8
    assert read(events(("click", TENT, 4), *shown)) == read(events(*shown))


def test_an_impression_told_many_times_counts_once_a_session() -> None:
    redrawn = events(*(("impression", TENT, 0, 5) for _ in range(50)))
    assert read(redrawn) == [1.0]
    three = events(*(("impression", TENT, 0, session % 3 + 1) for session in range(50)))
    assert read(three) == [pytest.approx(1 / 1.5)]


def test_without_session_ids_a_silence_parts_sessions() -> None:
    minute = 1 / 1440
    near = [("impression", TENT, n * 20 * minute) for n in range(40)]
    apart = [("impression", TENT, n * 40 * minute) for n in range(4)]
    assert read(events(*near)) == [1.0]  # never silent for half an hour: one session
    assert read(events(*apart))[0] == pytest.approx(1 / 2, rel=0.01)


def test_fatigue_and_refusal_multiply() -> None:
    shown = [("impression", TENT, 0, session) for session in range(1, 4)]
    assert read(events(*shown, ("dismiss", TENT, 84))) == [pytest.approx(0.5 / 1.5)]


def test_what_stands_in_two_cells_counts_once() -> None:
    shown = events(*(("impression", TENT, 0, session) for session in range(1, 4)))
    refusals = events(("dismiss", TENT, 84))
    refusals["event"] += 90
    keys = np.array([TENT], np.uint64)
    ring = np.concatenate([shown, refusals])
    found = attraction(shown, refusals, ring, keys, now_ms=NOW, gap_ms=GAP_MS, spec=SPEC)
    assert found.tolist() == read(ring)


def test_no_candidates_is_no_trouble() -> None:
    none = np.zeros(0, np.uint64)
    ring = events(("dismiss", TENT, 1))
    found = attraction(NOTHING, NOTHING, ring, none, now_ms=NOW, gap_ms=GAP_MS, spec=SPEC)
    assert found.shape == (0,)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"refusals": [{"action": "view", "pause": "1d", "ramp": "1d"}]}, "refuses nothing"),
        ({"refusals": [{"action": "cancel", "pause": "1d", "ramp": "1d"}] * 2}, "there twice"),
        ({"refusals": [{"action": "cancel", "pause": -1, "ramp": 0}]}, "pause"),
        ({"fatigue_half_life": 0}, "fatigue_half_life"),
        ({"free": -1}, "free"),
        ({"fatigue": 1}, "fatigue"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(values: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NegativeSpec.model_validate(values)


def test_by_default_every_refusal_of_the_vocabulary_counts() -> None:
    refusals = {name for name, action in ACTIONS.items() if action.polarity < 0}
    assert {refusal.action for refusal in NegativeSpec().refusals} == refusals
    for name in refusals:
        assert read(events((name, BOAT, 0)), BOAT, spec=NegativeSpec()) == [0.0]
