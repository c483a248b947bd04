"""Tombstones: a lattice of hashes, and what they cover."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from models.events import ACTIONS, key64
from models.memory import fold
from models.memory.facts import facts_of
from models.stores.judging import without
from models.stores.tombstones import Graves, item_key, join, user_key
from tests.models.memory.strategies import SPEC, few, records
from tests.models.stores.world import NOW, mixed, recorded

_keys = [user_key("ann"), *(item_key("ann", item) for item in range(3)), user_key("bob")]
ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
sets = st.dictionaries(st.sampled_from(_keys), st.integers(0, 5))


@given(a=sets, b=sets, c=sets)
def test_joining_is_a_lattice(a, b, c):
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c)) == join(a, b, c)
    assert join(a, a) == join(a)


@given(a=sets)
def test_what_a_users_tombstone_covers_needs_none_of_its_own(a):
    joined, ann = join(a), user_key("ann")
    for key, ts in a.items():
        is_covered = key.startswith(ann) and key != ann and ts <= a.get(ann, -1)
        assert joined.get(key) == (None if is_covered else ts)


def test_keys_name_nobody_and_those_of_a_user_lie_together():
    tea, milk = key64("tea"), key64("milk")
    keys = [item_key(user, item) for user in ("ann", "bob") for item in (tea, milk)]
    assert [key[:16] for key in keys] == [user_key("ann")] * 2 + [user_key("bob")] * 2
    assert len({key[16:] for key in keys}) == 4  # an item has another key with another user
    names = [b"ann", b"bob", *(item.to_bytes(8, order) for item in (tea, milk) for order in ORDERS)]
    assert not [key for key in keys if any(name in key for name in names)]


@few
@given(
    events=records(),
    until=st.integers(-1, 2),
    of_item=st.dictionaries(st.integers(0, 5), st.integers(0, 2)),
)
def test_many_are_covered_as_one_is(events, until, of_item):
    moments = [-1, NOW, 2 * NOW]
    graves = Graves.of(
        "ann",
        [
            *([(user_key("ann"), moments[until])] if until > 0 else []),
            *((item_key("ann", item), moments[at]) for item, at in of_item.items()),
        ],
    )
    expected = [
        event["ts"] <= graves.until
        or event["ts"] <= graves.items.get(item_key("ann", int(event["item"])), -1)
        for event in events
    ]
    assert graves.covers(events).tolist() == expected
    assert [graves.covers_one(int(e["ts"]), int(e["item"])) for e in events] == expected
    assert Graves.of("ann", graves.tombstones().items()) == graves
    assert bool(graves) == bool(graves.tombstones())


def test_facts_without_their_events_are_forgotten_by_time():
    table = mixed(range(60), num_users=1)
    history, facts = recorded(table, "u0"), facts_of(table)
    known = history[history["action"] != ACTIONS["state"].code]  # as a batch build may have it
    state = fold(known, SPEC, facts)
    until = sorted(fact.said_ms for fact in state.facts)[3]
    left, gone = without(state, known, Graves("u0", until), spec=SPEC)
    kept = [fact for fact in state.facts if fact.said_ms > until]
    assert left == fold(known[known["ts"] > until], SPEC, kept)
    assert (len(kept), gone.tolist()) == (len(state.facts) - 4, (known["ts"] <= until).tolist())
    assert without(state, known[:0], Graves("u0", until), spec=SPEC)[0].facts == left.facts
