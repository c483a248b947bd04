"""Explanations beside plain Python: each event weighed alone, by decimals that never underflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import DAY_MS, format_duration
from models.events import ACTION_NAMES, ACTIONS, INTERACTION, POLARITY, Interactions
from models.memory import EMPTY, MemorySpec, RateSpec, fold, user_feature_names, view
from models.memory.explain import Explanation, explain, explainable, parts_of
from models.memory.kernels import rate_per_day
from models.memory.spec import HOUR_MS
from tests.models.memory import oracle
from tests.models.memory.strategies import MEMORY, ORIGIN_MS, moments, records, scattered, some

RATE = RateSpec(name="bought", hits=("purchase",), tries=("view", "purchase"), half_life="2d")
SPEC = MEMORY.model_copy(update={"view": MEMORY.view.model_copy(update={"rates": (RATE,)})})
Weigh = Callable[[oracle.Atom, float], Decimal]
"""Weight of one event of an atom, of an age in days; 0 for one that does not count."""


def halving(half_life_ms: int, *actions: str, interest: int | None = None) -> Weigh:
    def weigh(one: oracle.Atom, days: float) -> Decimal:
        counts = ACTION_NAMES[one.action] in actions if actions else POLARITY[one.action] > 0
        other = interest is not None and one.interest != interest
        return oracle.weight(days, half_life_ms) if counts and not other else Decimal(0)

    return weigh


def power(action: str) -> Weigh:
    law = SPEC.view.power

    def weigh(one: oracle.Atom, days: float) -> Decimal:
        base = Decimal(1 + days * DAY_MS / law.floor)
        return base ** Decimal(-law.exponent) * (ACTION_NAMES[one.action] == action)

    return weigh


def excited(one: oracle.Atom, days: float) -> Decimal:
    jumps = [
        Decimal(jump.size * rate_per_day(jump.half_life)) * oracle.weight(days, jump.half_life)
        for jump in SPEC.view.hawkes.jumps
    ]
    return sum(jumps, Decimal(0)) * (POLARITY[one.action] > 0)


SUMS: dict[str, Weigh] = {
    "num_events": lambda one, days: Decimal(1),
    "intensity": excited,
    "hits_bought": halving(RATE.half_life, *RATE.hits),
    "tries_bought": halving(RATE.half_life, *RATE.tries),
    **{f"power_{action}": power(action) for action in SPEC.view.actions},
    **{
        f"num_{action}_{format_duration(half)}": halving(half, action)
        for action in SPEC.view.actions
        for half in SPEC.view.half_lives
    },
}
RATIOS: dict[str, Weigh] = {
    **{f"effective_{format_duration(half)}": halving(half) for half in SPEC.view.half_lives},
    **{f"fast_{place}": halving(SPEC.view.fast, interest=place) for place in range(4)},
    **{f"slow_{place}": halving(SPEC.view.slow, interest=place) for place in range(4)},
}
SINGLE = ("recency", "tenure", "num_sessions")


def crowded(seed: int) -> Interactions:
    """Many alike at few times: groups of several, and ties with the oldest in a ring."""
    events = scattered(seed, 90)
    events["ts"] -= events["ts"] % (8 * HOUR_MS)
    events["interest"] %= 2
    events["action"] = np.where(events["item"] < 4, ACTIONS["view"].code, events["action"])
    return events


pasts = st.one_of(records(), st.builds(crowded, st.integers(0, 300)))


def shares(weights: dict[object, Decimal]) -> dict[object, float]:
    total = sum(weights.values())
    return {key: float(weight / total) for key, weight in weights.items() if weight}


def assert_shares(found: dict[object, float], expected: dict[object, float]) -> None:
    """Shares below the smallest float are none."""
    assert found.keys() <= expected.keys()
    for key, share in expected.items():
        assert found.get(key, 0.0) == pytest.approx(share, rel=1e-11, abs=1e-300), key


def assert_well_formed(told: Explanation) -> None:
    parts = [one.share for one in told.contributions]
    assert parts == sorted(parts, reverse=True)
    assert all(share > 0 for share in parts)
    if parts:
        assert sum(parts) == pytest.approx(1, abs=1e-12)
    else:
        assert told.total == 0
    base = SPEC.view.hawkes.base if told.feature == "intensity" else 0.0
    if parts or told.feature != "recency":
        whole = sum(share * told.total for share in parts)
        assert base + whole == pytest.approx(told.value, rel=1e-12, abs=1e-300)


@some
@given(st.data())
def test_each_atom_has_the_share_of_its_weight(data: st.DataObject) -> None:
    history = data.draw(pasts)
    now = data.draw(moments(np.append(history["ts"], ORIGIN_MS)))
    state = fold(history, SPEC.state)
    atoms = oracle.atoms(oracle.events_of(history), SPEC.state)
    for feature, weigh in {**SUMS, **RATIOS}.items():
        told = explain(state, feature=feature, now_ms=now, spec=SPEC)
        assert_well_formed(told)
        weights = {
            (one, num): num * weigh(one, oracle.age_days(one, now)) for one, num in atoms.items()
        }
        found = {
            (
                oracle.Atom(
                    part.start_ms,
                    part.end_ms,
                    ACTIONS[part.action].code,
                    part.interest,
                    part.event,
                ),
                part.count,
            ): part.share
            for part in told.contributions
        }
        assert_shares(found, shares(weights))
        if feature in SUMS and feature != "intensity":
            assert told.total == pytest.approx(float(sum(weights.values())), rel=1e-11, abs=1e-300)


@some
@given(st.data())
def test_with_its_history_each_event_has_the_share_of_its_own_weight(data: st.DataObject) -> None:
    history = data.draw(pasts)
    now = data.draw(moments(np.append(history["ts"], ORIGIN_MS)))
    state = fold(history, SPEC.state)
    events = oracle.events_of(history)
    known = {event: oracle.atom(event, events, SPEC.state) for event in events}
    of = {event.event: event for event in events}
    for feature, weigh in {**SUMS, **RATIOS}.items():
        told = explain(state, feature=feature, now_ms=now, spec=SPEC, history=history)
        assert_well_formed(told)
        weights = {
            event.event: weigh(one, oracle.age_days(one, now))
            for event, one in known.items()
            if one is not None
        }
        assert_shares({part.event: part.share for part in told.contributions}, shares(weights))
        for part in told.contributions:
            own = of[part.event]
            told_of = (part.item, part.action, part.interest, part.start_ms, part.end_ms)
            assert told_of == (own.item, ACTION_NAMES[own.action], own.interest, own.ts, own.ts)
            assert part.count == 1


@some
@given(st.data())
def test_rings_name_their_items_and_values_are_those_of_the_view(data: st.DataObject) -> None:
    history = data.draw(records())
    now = data.draw(moments(np.append(history["ts"], ORIGIN_MS)))
    state = fold(history, SPEC.state)
    items = {event.event: event.item for event in oracle.events_of(history)}
    for feature in explainable(SPEC):
        told = explain(state, feature=feature, now_ms=now, spec=SPEC)
        assert_well_formed(told)
        for part in told.contributions:
            assert part.item == (items[part.event] if part.event else 0)
            assert (part.start_ms == part.end_ms) == bool(part.event)
    seen = view(state, now_ms=now, spec=SPEC)
    value_of = {
        name: explain(state, feature=name, now_ms=now, spec=SPEC).value
        for name in (*SINGLE, "num_view_7d", "power_purchase", "effective_90d", "fast_2", "slow_3")
    }
    assert value_of == {
        "recency": seen.recency_days,
        "tenure": seen.tenure_days,
        "num_sessions": seen.num_sessions,
        "num_view_7d": seen.counts[0, 1],
        "power_purchase": seen.power[1],
        "effective_90d": seen.effective[2],
        "fast_2": seen.fast[2],
        "slow_3": seen.slow[3],
    }
    hits, tries = (
        explain(state, feature=f"{side}_bought", now_ms=now, spec=SPEC).total
        for side in ("hits", "tries")
    )
    rate = (hits + RATE.strength * RATE.prior) / (tries + RATE.strength)
    assert seen.rates[0] == pytest.approx(rate, rel=1e-12)


@some
@given(records(min_size=1), st.integers(0, 400))
def test_times_go_back_to_the_events_that_set_them(history: Interactions, days: int) -> None:
    now = int(history["ts"].max()) + days * DAY_MS
    state = fold(history, SPEC.state)
    events = oracle.events_of(history)
    ring = oracle.ring(events, SPEC.state)
    begins = [of[0].event for of in oracle.sessions(ring, SPEC.view.session_gap)]
    told = {n: explain(state, feature=n, now_ms=now, spec=SPEC).contributions for n in SINGLE}
    assert [part.event for part in told["recency"]] == [event.event for event in ring[-1:]]
    assert sorted(part.event for part in told["num_sessions"]) == sorted(begins)
    (oldest,) = told["tenure"]
    ages = {one: oracle.age_days(one, now) for one in oracle.atoms(events, SPEC.state)}
    of_oldest = (oldest.start_ms, oldest.end_ms)
    assert of_oldest in {(one.start, one.end) for one in ages if ages[one] == max(ages.values())}


def test_nothing_is_explained_by_nothing() -> None:
    for feature in explainable(SPEC):
        told = explain(EMPTY, feature=feature, now_ms=ORIGIN_MS, spec=SPEC)
        assert told.contributions == ()
        assert told.total == 0


def views(*hours_ago: int) -> Interactions:
    events = np.zeros(len(hours_ago), INTERACTION)
    events["ts"] = [ORIGIN_MS - hours * HOUR_MS for hours in hours_ago]
    events["event"], events["item"] = np.arange(1, len(events) + 1), np.arange(len(events)) + 7
    events["action"] = ACTIONS["view"].code
    return events


def test_one_half_life_halves_a_share() -> None:
    state = fold(views(0, 6), SPEC.state)
    told = explain(state, feature="num_view_6h", now_ms=ORIGIN_MS, spec=SPEC)
    assert told.total == told.value == 1.5
    assert [(part.event, part.item, part.share) for part in told.contributions] == [
        (1, 7, 2 / 3),
        (2, 8, 1 / 3),
    ]
    # All of it decays alike, so the shares stay when nothing at all is left of the number.
    gone = explain(state, feature="num_view_6h", now_ms=ORIGIN_MS + 900 * DAY_MS, spec=SPEC)
    assert gone.value == 0
    assert [part.share for part in gone.contributions] == pytest.approx([2 / 3, 1 / 3])


def test_every_feature_is_explained_or_made_of_what_is() -> None:
    names = explainable(SPEC)
    for feature in user_feature_names(SPEC):
        parts = parts_of(feature, SPEC)
        assert parts
        assert set(parts) <= set(names)
        if feature not in names:
            with pytest.raises(ValueError, match=f"made of {parts[0]}"):
                explain(EMPTY, feature=feature, now_ms=0, spec=SPEC)
    assert parts_of("rate_bought", SPEC) == ["hits_bought", "tries_bought"]
    assert set(parts_of("drift_cosine", SPEC)) == {
        f"{p}_{k}" for p in ("fast", "slow") for k in range(4)
    }
    with pytest.raises(ValueError, match="'num_hops' is no feature"):
        explain(EMPTY, feature="num_hops", now_ms=0, spec=SPEC)


def test_a_history_of_other_events_is_refused() -> None:
    history = views(*range(0, 90, 3))
    state = fold(history, SPEC.state)
    given = {"feature": "num_view_7d", "now_ms": ORIGIN_MS, "spec": SPEC}
    whole = explain(state, history=history, **given)
    assert Counter(part.count for part in whole.contributions) == {1: 30}
    with pytest.raises(ValueError, match="read both at one moment"):
        explain(state, history=history[:-1], **given)


def test_another_spec_explains_other_numbers() -> None:
    assert "num_purchase_180d" in explainable(MemorySpec())
    assert "num_purchase_180d" not in explainable(SPEC)
