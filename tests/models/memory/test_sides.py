"""Items, queries and pairs: the laws of memory hold for them, and nothing personal is in them."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, POLARITY, Interactions
from models.memory import EMPTY, TileLevel, encode, fold, view
from models.memory.atoms import of_state
from models.memory.sides import (
    ITEM_SPEC,
    NUM_RESPONSES,
    Side,
    SideMemory,
    item_reading,
    pair,
    pair_keys,
    response_bucket,
    sided,
)
from models.memory.tiles import uncell, unpack
from tests.models.memory import oracle
from tests.models.memory.strategies import MEMORY, ORIGIN_MS, SPEC, moments, records, some

LEVELS = (
    TileLevel(hop=DAY_MS, keep=5),
    TileLevel(hop=30 * DAY_MS, keep=4),
    TileLevel(hop=360 * DAY_MS, keep=16),
)
ITEM = ITEM_SPEC.model_copy(update={"state": ITEM_SPEC.state.model_copy(update={"levels": LEVELS})})
CODES = [ACTIONS[name].code for name in ("impression", "invite", "accept", "decline", "hire")]
ANSWERS = CODES[2:]
HOURS = np.array([0.0, 0.001, 0.4, 1.0, 5.5, 30.0, 9000.0], np.float32)


def answered(events: Interactions) -> Interactions:
    """The same events as invitations and answers, some of them with a response time."""
    events["action"] = np.array(CODES)[events["event"] % np.uint64(len(CODES))]
    events["value"] = HOURS[events["event"] // np.uint64(8) % np.uint64(len(HOURS))]
    return events


answers = records().map(answered)


def of_items(events: Interactions) -> SideMemory:
    return SideMemory.fold(*sided(events, Side.ITEM), ITEM.state)


def bytes_of(memory: SideMemory) -> dict[int, bytes]:
    return {key: encode(state, ITEM.state) for key, state in memory.states.items()}


@some
@given(st.data())
def test_any_order_and_any_split_give_the_same_bytes(data: st.DataObject) -> None:
    events = data.draw(answers)
    whole = bytes_of(of_items(events))
    order = np.array(data.draw(st.permutations(range(len(events)))), np.int64)
    assert bytes_of(of_items(events[order])) == whole
    shard = data.draw(st.lists(st.integers(0, 3), min_size=len(events), max_size=len(events)))
    parts = [of_items(events[np.array(shard, np.int64) == place]) for place in range(4)]
    joined = SideMemory({})
    for place in data.draw(st.permutations(range(4))):
        joined = joined.merge(parts[place], ITEM.state)
    assert bytes_of(joined) == whole


@some
@given(answers, st.integers(0, 2**32))
def test_nothing_tells_who_it_was_and_when_within_the_day(events: Interactions, seed: int) -> None:
    rng, others = np.random.default_rng(seed), events.copy()
    others["event"] = rng.permutation(len(events)) + 1
    others["session"] = rng.integers(0, 9, len(events))
    others["interest"] = rng.integers(0, SPEC.num_interests, len(events))
    others["ts"] += rng.integers(0, DAY_MS - others["ts"] % DAY_MS)
    others["value"][~np.isin(others["action"], ANSWERS)] = 3.0
    assert bytes_of(of_items(others)) == bytes_of(of_items(events))
    for state in of_items(events).states.values():
        assert not len(state.ring) + len(state.shown) + len(state.refused) + len(state.facts)


def test_records_of_everybody_are_stripped() -> None:
    event = one("accept", value=4.0, session=3, interest=2)
    for side, interest in ((Side.ITEM, response_bucket(event["value"])[0]), (Side.QUERY, 2)):
        keys, bare = sided(event, side, queries=np.array([7], np.uint64))
        assert keys.tolist() == [7]
        assert bare.tolist() == [(ORIGIN_MS, 1, 0, 0, 0.0, interest, ACTIONS["accept"].code)]


def coarsest(states: list[object]) -> Counter[tuple[int, int]]:
    """Counts by tile and action at the last level, where nothing is pruned."""
    total: Counter[tuple[int, int]] = Counter()
    for state in states:
        level, index, cell = unpack(state.tiles["key"])
        action, _ = uncell(cell)
        columns = (level, index, action, state.tiles["count"])
        for at, tile, code, count in zip(*(c.tolist() for c in columns), strict=True):
            if at == len(LEVELS) - 1:
                total[tile, code] += count
    return total


@some
@given(answers)
def test_items_count_what_users_count(events: Interactions) -> None:
    users = events["event"] % np.uint64(3) + np.uint64(1)
    with_item = events["item"] != 0
    keys, own = sided(events[with_item], Side.USER, users=users[with_item])
    of_users = [fold(own[keys == key], ITEM.state) for key in np.unique(keys)]
    of_item = list(of_items(events).states.values())
    assert coarsest(of_item) == coarsest(of_users)
    pairs, own = sided(events, Side.PAIR, users=users)
    of_pairs = [fold(own[pairs == key], ITEM.state) for key in np.unique(pairs)]
    assert coarsest(of_pairs) == coarsest(of_users)


def tile_of(event: oracle.Event, events: list[oracle.Event]) -> tuple[int, int] | None:
    """The time that an event is known to lie in where no ring has it."""
    cut = float("inf")
    for hop, keep in ((tile.hop, tile.keep) for tile in LEVELS):
        oldest = oracle.newest_index(events, hop) - keep + 1
        if event.ts // hop >= oldest:
            return event.ts // hop * hop, int(min((event.ts // hop + 1) * hop, cut))
        cut = oldest * hop
    return None


def age_days(event: oracle.Event, events: list[oracle.Event], now_ms: int) -> float | None:
    tile = tile_of(event, events)
    return tile and oracle.age_days(oracle.Atom(*tile, event.action, 0), now_ms)


def power_of(hours: float) -> int:
    """The nearest power of two, by trial."""
    return min(range(-6, 13), key=lambda power: abs(log2(hours) - power))


@some
@given(st.data())
def test_acceptance_and_response_times_are_those_of_a_loop(data: st.DataObject) -> None:
    events = data.draw(answers)
    now = data.draw(moments(np.append(events["ts"], ORIGIN_MS)))
    items = np.unique(np.append(events["item"], [77]))
    found = of_items(events).items(items, now_ms=now, spec=ITEM)
    (rate,) = ITEM.view.rates
    for row, item in enumerate(items.tolist()):
        own = [event for event in oracle.events_of(events) if event.item == item and item]
        ages = {event: age for event in own if (age := age_days(event, own, now)) is not None}
        count: Counter[int] = Counter()
        for event, days in ages.items():
            count[event.action] += float(oracle.weight(days, rate.half_life))
        accepted, declined = (count[ACTIONS[name].code] for name in ("accept", "decline"))
        expected = (accepted + rate.strength * rate.prior) / (accepted + declined + rate.strength)
        assert found.rates[row, 0] == pytest.approx(expected, rel=1e-12)
        timed = {
            event: oracle.weight(days, ITEM.view.slow)
            for event, days in ages.items()
            if event.action in ANSWERS and event.value > 0
        }
        total = sum(timed.values(), Decimal(0))
        moment = sum(weight * power_of(event.value) for event, weight in timed.items())
        squares = sum(weight**2 for weight in timed.values())
        mean, effective = (moment / total, total**2 / squares) if timed else (0, 0)
        assert found.response_log2_hours[row] == pytest.approx(float(mean), rel=1e-9, abs=1e-9)
        assert found.response_effective[row] == pytest.approx(float(effective), rel=1e-9)
        for place, name in enumerate(ITEM.view.actions):
            for column, half in enumerate(ITEM.view.half_lives):
                of_name = [days for e, days in ages.items() if e.action == ACTIONS[name].code]
                decayed = float(sum(oracle.weight(days, half) for days in of_name))
                assert found.counts[row, place, column] == pytest.approx(
                    decayed, rel=1e-11, abs=1e-300
                )


@some
@given(answers, st.integers(0, 500))
def test_many_items_are_read_as_each_alone_and_as_by_the_view(
    events: Interactions, days: int
) -> None:
    memory, now = of_items(events), ORIGIN_MS + days * DAY_MS
    keys = np.array([99, *memory.states], np.uint64)
    many = memory.items(keys, now_ms=now, spec=ITEM)
    for row, key in enumerate(keys.tolist()):
        state = memory.states.get(key, EMPTY)
        one = item_reading(state, now_ms=now, spec=ITEM)
        for name, value in vars(one).items():
            assert np.asarray(value).tobytes() == getattr(many, name)[row].tobytes(), name
        seen = view(state, now_ms=now, spec=ITEM)
        assert seen.counts.tobytes() == np.ascontiguousarray(one.counts).tobytes()
        assert seen.rates.tobytes() == one.rates.tobytes()


def test_of_an_unknown_item_the_prior_is_known_and_of_no_item_nothing() -> None:
    unknown = SideMemory({}).items(np.array([5], np.uint64), now_ms=ORIGIN_MS, spec=ITEM)
    assert unknown.rates.tolist() == [[0.5]]
    assert unknown.response_effective.tolist() == [0.0]
    none = SideMemory({}).items(np.zeros(0, np.uint64), now_ms=ORIGIN_MS, spec=ITEM)
    assert none.counts.shape == (0, len(ITEM.view.actions), len(ITEM.view.half_lives))


def one(action: str, **fields: float) -> Interactions:
    event = np.zeros(1, INTERACTION)
    event["ts"], event["event"], event["item"] = ORIGIN_MS, 1, 7
    event["action"] = ACTIONS[action].code
    for name, value in fields.items():
        event[name] = value
    return event


def test_slow_answers_fade_and_fast_ones_count_from_now_on() -> None:
    spec = ITEM_SPEC.model_copy(
        update={"view": ITEM_SPEC.view.model_copy(update={"slow": 20 * DAY_MS})}
    )
    later = ORIGIN_MS + spec.view.slow
    events = np.concatenate(
        [one("accept", value=64.0), one("decline", value=4.0, event=2, ts=later)]
    )
    memory = SideMemory.fold(*sided(events, Side.ITEM), spec.state)
    read = item_reading(memory.states[7], now_ms=later, spec=spec)
    # One weighs half: (6 / 2 + 2) / 1.5, but for where in its day it lies.
    assert read.response_log2_hours == pytest.approx(10 / 3, abs=0.02)
    assert read.response_effective == pytest.approx(1.8, abs=0.02)
    # After 2,000 half-lives nothing is left of the weights, and all of their ratio.
    silent = item_reading(memory.states[7], now_ms=later + 2_000 * spec.view.slow, spec=spec)
    assert silent.response_log2_hours == pytest.approx(10 / 3, abs=0.02)


def test_buckets_are_the_nearest_powers_of_two_of_an_hour() -> None:
    powers = np.arange(-6, 13)
    assert response_bucket(2.0**powers).tolist() == list(range(1, NUM_RESPONSES))
    rng = np.random.default_rng(0)
    hours = np.exp2(rng.uniform(-6.4, 12.4, 1000)).astype(np.float32)
    off = np.abs(np.log2(hours) - (response_bucket(hours).astype(float) - 7))
    assert off.max() <= 0.5 + 1e-6
    beyond = np.array([0.0, -1.0, 1e-9, 1e9], np.float32)
    assert response_bucket(beyond).tolist() == [0, 0, 1, NUM_RESPONSES - 1]


@some
@given(st.data())
def test_a_query_remembers_what_people_turn_to_and_nobody(data: st.DataObject) -> None:
    events = data.draw(records())
    now = data.draw(moments(np.append(events["ts"], ORIGIN_MS)))
    queries = events["event"] % np.uint64(3)
    memory = SideMemory.fold(*sided(events, Side.QUERY, queries=queries), ITEM.state)
    assert set(memory.states) == set(queries.tolist()) - {0}
    for key, state in memory.states.items():
        own = [
            e for e, q in zip(oracle.events_of(events), queries.tolist(), strict=True) if q == key
        ]
        mass = np.zeros(NUM_RESPONSES)
        for event in own:
            days = age_days(event, own, now)
            if days is not None and POLARITY[event.action] > 0:
                mass[event.interest] += float(oracle.weight(days, ITEM.view.slow))
        found = view(state, now_ms=now, spec=ITEM).slow
        assert found.tolist() == pytest.approx((mass / (mass.sum() or 1)).tolist(), rel=1e-9)
        assert not of_state(state, ITEM.state).event.any()


@some
@given(records(), st.integers(1, 5))
def test_a_pair_is_the_users_own_memory_of_one_item(events: Interactions, item: int) -> None:
    users = np.full(len(events), 12, np.uint64)
    keys, own = sided(events, Side.PAIR, users=users)
    (key,) = pair_keys(np.array([12], np.uint64), np.array([item], np.uint64))
    found = pair(events, item, SPEC)
    assert found == fold(own[keys == key], SPEC)
    assert view(found, now_ms=ORIGIN_MS, spec=MEMORY).num_events <= (events["item"] == item).sum()


def test_keys_of_pairs_differ() -> None:
    users, items = np.meshgrid(
        np.arange(1, 301, dtype=np.uint64), np.arange(1, 301, dtype=np.uint64)
    )
    keys = pair_keys(users.ravel(), items.ravel())
    assert len(np.unique(keys)) == 90_000
    assert keys.min() > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="needs `queries`"):
        sided(one("view"), Side.QUERY)
    with pytest.raises(ValueError, match="needs `users`"):
        sided(one("view"), Side.PAIR)
    twice = np.concatenate([one("view"), one("view", item=8)])
    with pytest.raises(ValueError, match="occurs twice"):
        of_items(twice)


def test_facts_are_of_persons_and_go_to_no_item() -> None:
    assert of_items(one("state")).states == {}
    assert of_items(one("view", item=0)).states == {}
