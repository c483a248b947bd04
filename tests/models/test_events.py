"""The event contract: what is refused and why, what is cast, and what is filled in."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import MAX_FACT_BYTES, MAX_ID_BYTES, SCHEMA, Validated, validate

NOW_MS = 1_700_000_000_000
SKEW_MS = 300_000
GOOD: dict[str, object] = {
    "event_id": "e1",
    "ts": NOW_MS - 1_000,
    "user_id": "u1",
    "item_id": "i1",
    "action": "view",
}
BAD_ID = f"is empty, over {MAX_ID_BYTES} bytes or holds a zero byte"


def table(*rows: dict[str, object]) -> pa.Table:
    """Rows of changes to `GOOD`, in `SCHEMA` with nulls allowed."""
    full = [{**GOOD, "event_id": f"e{place}", **row} for place, row in enumerate(rows)]
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    return pa.Table.from_pylist(full, schema=nullable)


def checked(*rows: dict[str, object], delay_ms: int = 0) -> Validated:
    return validate(table(*rows), now_ms=NOW_MS, max_skew_ms=SKEW_MS, delay_ms=delay_ms)


FACT: dict[str, object] = {"action": "state", "item_id": None, "slot": "budget"}
WRONG: list[tuple[dict[str, object], str]] = [
    ({"user_id": None}, "no user_id"),
    ({"event_id": None}, "no event_id"),
    ({"ts": None}, "no or unparsable ts"),
    ({"ts": -1}, "ts before 1970"),
    ({"ts": NOW_MS + SKEW_MS + 1}, "ts in the future"),
    ({"action": None}, "unknown action"),
    ({"action": "View"}, "unknown action"),
    ({"item_id": None}, "no item_id"),
    ({"user_id": ""}, f"user_id {BAD_ID}"),
    ({"event_id": "x" * (MAX_ID_BYTES + 1)}, f"event_id {BAD_ID}"),
    ({"item_id": "é" * (MAX_ID_BYTES // 2 + 1)}, f"item_id {BAD_ID}"),
    ({"session_id": "a\0b"}, f"session_id {BAD_ID}"),
    ({"request_id": ""}, f"request_id {BAD_ID}"),
    ({"arrived_at": NOW_MS - 1_001}, "arrived_at before ts"),
    ({"arrived_at": -1}, "arrived_at before ts"),
    ({"arrived_at": NOW_MS + SKEW_MS + 1}, "arrived_at in the future"),
    ({"position": -1}, "position below zero"),
    ({"value": float("nan")}, "value is not finite"),
    ({"value": float("inf")}, "value is not finite"),
    ({"propensity": 0.0}, "propensity outside (0, 1]"),
    ({"propensity": 1.5}, "propensity outside (0, 1]"),
    ({"propensity": float("nan")}, "propensity outside (0, 1]"),
    ({"slot": "budget"}, "slot or fact without the action `state`"),
    ({"fact": "1"}, "slot or fact without the action `state`"),
    ({"action": "state", "item_id": None}, "action `state` without a slot"),
    ({**FACT, "fact_source": "rumour"}, "unknown fact_source"),
    *(
        ({**FACT, "fact": text}, f"fact is no JSON or over {MAX_FACT_BYTES} bytes")
        for text in ("", "{", "NaN", "1e999", "[" * 2000 + "]" * 2000, '"' + "a" * 4095 + '"')
    ),
    ({**FACT, "valid_until": NOW_MS - 1_000}, "valid_until not after ts"),
]
RIGHT: list[dict[str, object]] = [
    {},
    FACT,  # withdraws the slot
    {**FACT, "fact": '{"max": [1, 2]}', "fact_source": "inferred", "valid_until": NOW_MS},
    {**FACT, "item_id": "i1", "fact": "null"},
    {"ts": 0},
    {"ts": NOW_MS + SKEW_MS},
    {"action": "search", "item_id": None},
    {"user_id": "é" * (MAX_ID_BYTES // 2)},
    {"arrived_at": NOW_MS - 1_000},
    {"arrived_at": NOW_MS + SKEW_MS},
    {"position": 0, "value": -1.0, "propensity": 1.0, "query": "", "surface": ""},
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_each_rule_refuses_with_its_reason(change: dict[str, object], reason: str) -> None:
    found = checked(change)
    assert found.rejected["reason"].to_pylist() == [reason]
    assert len(found.good) == 0


@pytest.mark.parametrize("change", RIGHT)
def test_what_is_on_the_edge_of_a_rule_is_good(change: dict[str, object]) -> None:
    assert checked(change).rejected["reason"].to_pylist() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*((change, "") for change in RIGHT), *WRONG]), max_size=8))
def test_good_and_rejected_are_all(rows: list[tuple[dict[str, object], str]]) -> None:
    found = checked(*(change for change, _ in rows))
    wrong = [place for place, (_, reason) in enumerate(rows) if reason]
    assert found.rejected_rows.tolist() == wrong
    assert found.rejected["reason"].to_pylist() == [rows[place][1] for place in wrong]
    right = [place for place, (_, reason) in enumerate(rows) if not reason]
    assert found.good["event_id"].to_pylist() == [f"e{place}" for place in right]
    assert found.good["arrived_at"].null_count == 0
    # As they came, arrival included; repr, for a NaN equals nothing.
    as_given = table(*(change for change, _ in rows)).take(pa.array(wrong, pa.int64()))
    assert repr(found.rejected.drop_columns("reason").to_pylist()) == repr(as_given.to_pylist())


def test_the_first_broken_rule_is_the_reason() -> None:
    found = checked({"user_id": None, "action": "dance", "position": -5})
    assert found.rejected["reason"].to_pylist() == ["no user_id"]


def test_a_missing_arrival_is_the_time_plus_the_delay() -> None:
    good = checked({}, {"arrived_at": NOW_MS}, delay_ms=60_000).good
    assert good["arrived_at"].cast(pa.int64()).to_pylist() == [NOW_MS + 59_000, NOW_MS]


@pytest.mark.parametrize("name", ["event_id", "ts", "user_id", "action"])
def test_a_missing_required_column_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"required column\(s\) {name};"):
        validate(table({}).drop_columns(name), now_ms=NOW_MS)


def test_optional_columns_may_be_missing_and_unknown_ones_are_left_out() -> None:
    least = table({}).select(list(GOOD)).append_column("colour", pa.array(["red"]))
    good = validate(least, now_ms=NOW_MS).good
    assert good.schema.names == SCHEMA.names
    assert good.schema.types == SCHEMA.types
    assert good["session_id"].null_count == 1


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("ts", pa.array([NOW_MS]), NOW_MS),
        ("ts", pa.array([NOW_MS], pa.timestamp("ms")), NOW_MS),
        ("ts", pa.array([NOW_MS * 1_000], pa.timestamp("us", "Asia/Tokyo")), NOW_MS),
        ("ts", pa.array([NOW_MS // 1_000], pa.timestamp("s")), NOW_MS),
        ("ts", pa.array(["2023-11-14T22:13:20Z"]), NOW_MS),
        ("ts", pa.array(["2023-11-14T23:13:20+01:00"]), NOW_MS),
        ("user_id", pa.array([7]), "7"),
        ("user_id", pa.array(["u"], pa.large_string()), "u"),
        ("item_id", pa.array(["i"]).dictionary_encode(), "i"),
        ("position", pa.array([3], pa.int64()), 3),
        ("value", pa.array([0.5], pa.float64()), 0.5),
        ("query", pa.nulls(1), None),
    ],
)
def test_castable_types_are_cast(name: str, column: pa.Array, expected: object) -> None:
    given_table = table({}).set_column(SCHEMA.get_field_index(name), name, column)
    good = validate(given_table, now_ms=NOW_MS).good
    cast = good[name].cast(pa.int64()) if name == "ts" else good[name]
    assert good[name].type == SCHEMA.field(name).type
    assert cast.to_pylist() == [expected]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("ts", pa.array(["yesterday"])),
        ("position", pa.array([1.5])),
        ("position", pa.array([2**40])),
        ("value", pa.array(["much"])),
        ("item_id", pa.array([["a", "b"]])),
    ],
)
def test_a_column_beyond_casting_is_named(name: str, column: pa.Array) -> None:
    given_table = table({}).set_column(SCHEMA.get_field_index(name), name, column)
    with pytest.raises(ValueError, match=f"event column '{name}'"):
        validate(given_table, now_ms=NOW_MS)


def test_a_time_finer_than_a_millisecond_is_cut() -> None:
    fine = pa.array([NOW_MS * 1_000 + 999], pa.timestamp("us"))
    given_table = table({}).set_column(SCHEMA.get_field_index("ts"), "ts", fine)
    good = validate(given_table, now_ms=NOW_MS).good
    assert good["ts"].cast(pa.int64()).to_pylist() == [NOW_MS]


def test_a_column_that_is_there_twice_is_named() -> None:
    twice = table({}).append_column("item_id", pa.array(["other"]))
    with pytest.raises(ValueError, match="'item_id' is there twice"):
        validate(twice, now_ms=NOW_MS)
