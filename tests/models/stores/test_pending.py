"""States with events behind them: nobody can tell, and there are never many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.events import INTERACTION
from models.memory import EMPTY, encode, fold
from models.stores.batch import Batch
from models.stores.pending import MOST, add, pack, unpack
from tests.models.memory.strategies import SPEC, few
from tests.models.stores.world import buckets, folded, mixed, numbered


@few
@given(sizes=st.lists(st.integers(1, MOST), max_size=12), with_facts=st.booleans())
def test_whatever_is_behind_it_the_state_is_that_of_all_events(sizes, with_facts):
    told, stored, num = mixed if with_facts else numbered, b"", 0
    for size in sizes:
        batch = Batch.of(told(range(num, num + size), num_users=1), buckets)
        stored, num = add(stored, batch, range(size), SPEC), num + size
        state = folded(told(range(num), num_users=1), "u0")
        assert unpack(stored, SPEC) == state
        assert unpack(pack(state, SPEC), SPEC) == state
        behind = len(stored) - len(pack(state, SPEC))
        assert behind <= MOST * INTERACTION.itemsize


def test_the_first_events_are_kept_as_they_are_until_there_are_too_many():
    batch = Batch.of(numbered(range(MOST + 1), num_users=1), buckets)
    stored = add(None, batch, range(MOST), SPEC)
    assert len(stored) == 2 + MOST * INTERACTION.itemsize
    stored = add(stored, batch, [MOST], SPEC)
    assert stored[2:] == encode(fold(batch.interactions, SPEC), SPEC)


def test_nothing_has_no_bytes():
    assert pack(EMPTY, SPEC) == b""
    assert unpack(b"", SPEC) == unpack(None, SPEC) == EMPTY
