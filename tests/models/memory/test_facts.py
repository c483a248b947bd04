"""Facts: the laws of the lattice, the bitemporal reading beside brute force, rows to facts."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.events import FACT_SOURCES, SCHEMA, conform, encode
from models.memory import facts as facts_module
from models.memory.facts import (
    EMPTY_FACTS,
    Fact,
    Facts,
    Source,
    as_of,
    canonical,
    facts_of,
    from_bytes,
    history,
    merge,
    to_bytes,
)
from tests.models.memory.strategies import one_fact, some

EVERYTHING = 10_000
"""A `keep` that prunes nothing here."""


cells = st.lists(one_fact(), max_size=12).map(lambda facts: merge(facts, (), EVERYTHING))
moments = st.integers(-1, 18)
keeps = st.sampled_from([1, 2, 3, EVERYTHING])


def fact(value: str | None, **changes: object) -> Fact:
    plain = {"slot": "budget", "source": Source.EXPLICIT, "said_ms": 10, "until_ms": None}
    plain |= {"known_ms": changes.get("said_ms", 10), "event": 1} | changes
    return Fact(value=value, **plain)  # type: ignore[arg-type]


def values(facts: Iterable[Fact], *, event_time: int, known_at: int) -> dict[str, str | None]:
    found = as_of(facts, event_time_ms=event_time, known_at_ms=known_at)
    return {slot: one.value for slot, one in found.items()}


@some
@given(cells, cells, keeps)
def test_merge_is_commutative(a: Facts, b: Facts, keep: int) -> None:
    assert to_bytes(merge(a, b, keep)) == to_bytes(merge(b, a, keep))


@some
@given(cells, cells, cells, keeps)
def test_merge_is_associative(a: Facts, b: Facts, c: Facts, keep: int) -> None:
    left = merge(merge(a, b, keep), c, keep)
    assert to_bytes(left) == to_bytes(merge(a, merge(b, c, keep), keep))


@some
@given(cells, cells, keeps)
def test_merge_is_idempotent_and_the_empty_cell_its_identity(a: Facts, b: Facts, keep: int) -> None:
    both = merge(a, b, keep)
    assert merge(both, both, keep) == merge(both, b, keep) == both
    assert merge(both, EMPTY_FACTS, keep) == merge(EMPTY_FACTS, both, keep) == both


@some
@given(st.lists(one_fact(), max_size=12), keeps)
def test_one_at_a_time_in_any_order_is_the_whole(facts: list[Fact], keep: int) -> None:
    cell = EMPTY_FACTS
    for one in facts:
        cell = merge(cell, (one,), keep)
    assert cell == merge(reversed(facts), (), keep)


@some
@given(cells, keeps)
def test_the_newest_of_each_slot_and_source_are_kept(a: Facts, keep: int) -> None:
    kept = merge(a, (), keep)
    for slot in ("budget", "skills"):
        for source in Source:
            alike = [f for f in a if (f.slot, f.source) == (slot, source)]
            newest = sorted(alike, key=lambda f: (f.said_ms, f.event))[-keep:]
            assert [f for f in kept if (f.slot, f.source) == (slot, source)] == newest


def test_an_event_sent_again_counts_from_its_first_arrival() -> None:
    first, again = fact("1", known_ms=10), fact("1", known_ms=90)
    assert merge((again,), (first,), 1) == merge((first,), (again,), 1) == (first,)


def brute_force(facts: Facts, event_time: int, known_at: int) -> dict[str, str | None]:
    """Each fact is asked alone: does it speak, and does nobody stronger speak about its slot?"""

    def speaks(f: Fact) -> bool:
        lasts = f.until_ms is None or event_time < f.until_ms
        return f.said_ms <= event_time and f.known_ms <= known_at and lasts

    def is_stronger(f: Fact, than: Fact) -> bool:
        if f.source != than.source:
            return f.source > than.source
        if f.said_ms != than.said_ms:
            return f.said_ms > than.said_ms
        return f.event > than.event

    found = {}
    for f in facts:
        rivals = [other for other in facts if other.slot == f.slot and speaks(other)]
        if speaks(f) and f.value is not None and not any(is_stronger(r, f) for r in rivals):
            found[f.slot] = f.value
    return found


@some
@given(cells, moments, moments)
def test_the_reading_agrees_with_brute_force(a: Facts, event_time: int, known_at: int) -> None:
    expected = brute_force(a, event_time, known_at)
    assert values(a, event_time=event_time, known_at=known_at) == expected


@some
@given(cells, cells, moments, moments)
def test_what_becomes_known_later_changes_no_earlier_reading(
    a: Facts, later: Facts, event_time: int, known_at: int
) -> None:
    later = tuple(f for f in later if f.known_ms > known_at)
    before = values(a, event_time=event_time, known_at=known_at)
    both = merge(a, later, EVERYTHING)
    # An event that `a` had already is no news; its first arrival stays the one that counts.
    assert values(both, event_time=event_time, known_at=known_at) == before


def test_a_fact_that_comes_late_changes_the_present_and_not_the_past() -> None:
    early, late = fact("50", event=1), fact("80", said_ms=20, known_ms=100, event=2)
    cell = merge((early,), (late,), 8)
    assert values(cell, event_time=30, known_at=30) == {"budget": "50"}
    assert values(cell, event_time=30, known_at=99) == {"budget": "50"}
    assert values(cell, event_time=30, known_at=100) == {"budget": "80"}  # the past, seen today
    assert values(cell, event_time=19, known_at=100) == {"budget": "50"}


def test_explicit_beats_inferred_even_if_older() -> None:
    said = fact("50", event=1)
    seen = fact("70", source=Source.OBSERVED, said_ms=20, event=2)
    guess = fact("90", source=Source.INFERRED, said_ms=30, event=3)
    assert values((said, seen, guess), event_time=99, known_at=99) == {"budget": "50"}
    assert values((seen, guess), event_time=99, known_at=99) == {"budget": "70"}


def test_a_withdrawn_slot_is_empty_and_silences_weaker_sources() -> None:
    guess = fact("90", source=Source.INFERRED, said_ms=30, event=3)
    withdrawn = fact(None, said_ms=20, event=2)
    cell = merge((fact("50"), guess), (withdrawn,), 8)
    assert values(cell, event_time=19, known_at=99) == {"budget": "50"}
    assert values(cell, event_time=40, known_at=99) == {}
    again = merge(cell, (fact("60", said_ms=50, event=4),), 8)
    assert values(again, event_time=50, known_at=99) == {"budget": "60"}


def test_a_withdrawal_by_a_weaker_source_withdraws_nothing_said() -> None:
    doubt = fact(None, source=Source.INFERRED, said_ms=20, event=2)
    assert values((fact("50"), doubt), event_time=30, known_at=30) == {"budget": "50"}


def test_when_a_fact_for_a_time_is_over_the_one_before_it_holds_again() -> None:
    cell = merge((fact("50"),), (fact("99", said_ms=20, until_ms=30, event=2),), 8)
    assert [values(cell, event_time=t, known_at=99)["budget"] for t in (19, 20, 29, 30)] == [
        "50", "99", "99", "50",
    ]  # fmt: skip


def test_pruning_bounds_what_a_reading_of_the_past_can_see() -> None:
    said = [fact(str(n), said_ms=10 * n, event=n) for n in range(1, 5)]
    whole, pruned = merge(said, (), 4), merge(said, (), 2)
    assert values(whole, event_time=25, known_at=99) == {"budget": "2"}
    assert values(pruned, event_time=25, known_at=99) == {}
    assert values(pruned, event_time=35, known_at=99) == {"budget": "3"}


def test_the_history_of_a_slot_can_be_read() -> None:
    other = fact('"python"', slot="skills", event=9)
    late = fact(None, source=Source.INFERRED, said_ms=5, known_ms=50, event=2)
    cell = merge((fact("50"), other), (late, fact("60", said_ms=20, until_ms=21, event=3)), 8)
    assert [f.value for f in history(cell, "budget")] == [None, "50", "60"]
    assert history(cell, "colour") == ()


@some
@given(cells)
def test_bytes_and_back(a: Facts) -> None:
    assert from_bytes(to_bytes(a)) == a
    assert all(isinstance(f.source, Source) for f in from_bytes(to_bytes(a)))


def test_bytes_hold_any_text_and_any_key() -> None:
    cell = (fact(canonical('"größer als 10 \\ud83d\\ude00"'), slot="日本", event=2**64 - 1),)
    assert from_bytes(to_bytes(cell)) == cell
    assert to_bytes(EMPTY_FACTS) == b""
    assert len(to_bytes((fact('"remote"', said_ms=1_700_000_000_000, event=2**63),))) < 96


@pytest.mark.parametrize("blob", [b"{", b"7", b"[7]", b'[["s", null, 9, 1, 1, null, 1]]', b"[[1]]"])
def test_damaged_bytes_are_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="facts are damaged"):
        from_bytes(blob)


def test_equal_values_have_one_text() -> None:
    assert canonical(' {"b": [1, 2.50], "a": null} ') == canonical('{"a":null,"b":[1,2.5]}')
    assert canonical("null") == "null"  # a value; no value at all withdraws the slot


@pytest.mark.parametrize("text", ["", "{", "NaN", "1e999", "[" * 2000 + "]" * 2000])
def test_what_is_no_json_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no JSON value"):
        canonical(text)


def test_merge_must_keep_something() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        merge((), (), 0)


def rows(*changes: dict[str, object]) -> pa.Table:
    plain = {"event_id": "e1", "ts": 1_000, "user_id": "ann", "action": "state", "slot": "budget"}
    names = {name for change in changes for name in change} | set(plain)
    return conform(pa.table({n: [(plain | c).get(n) for c in changes] for n in sorted(names)}))


def test_rows_become_facts() -> None:
    table = rows(
        {"fact": '{"max": 50, "currency": "EUR"}', "arrived_at": 2_000, "valid_until": 9_000},
        {"event_id": "e2", "action": "view", "item_id": "tent", "slot": None},
        {"event_id": "e3", "fact_source": "inferred", "slot": "skills", "fact": None},
    )
    budget, skills = facts_of(table)
    keys = encode(table)["event"].tolist()
    value = '{"currency":"EUR","max":50}'
    assert budget == Fact("budget", value, Source.EXPLICIT, 1_000, 2_000, 9_000, keys[0])
    assert skills == Fact("skills", None, Source.INFERRED, 1_000, 1_000, None, keys[2])


def test_rows_may_hold_no_fact() -> None:
    assert facts_of(rows({"action": "view", "item_id": "tent", "slot": None})) == []
    assert facts_of(SCHEMA.empty_table()) == []


def test_a_row_that_no_validation_saw_is_refused() -> None:
    with pytest.raises(ValueError, match="is no JSON value"):
        facts_of(rows({"fact": "{"}))


def test_the_ranks_are_those_of_the_event_contract() -> None:
    assert [source.name.lower() for source in sorted(Source)] == list(FACT_SOURCES)


def test_values_read_back_as_json() -> None:
    (one,) = facts_of(rows({"fact": '["remote", 3]'}))
    assert one.value is not None
    assert json.loads(one.value) == ["remote", 3]


def test_the_example_of_the_docstring_holds() -> None:
    assert doctest.testmod(facts_module) == (0, 5)
