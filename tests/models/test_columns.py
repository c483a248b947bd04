"""Columns of unknown origin: what can be read is read alike, what cannot becomes null."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.columns import LINE, REASON, as_number, as_text, as_time, content_ids, parse_lines

NOON = datetime(2011, 10, 15, 12, tzinfo=UTC)


def test_text_is_what_people_write():
    assert as_text(pl.Series([17850.0, 2.5, None, float("nan")])).to_list() == [
        "17850",
        "2.5",
        None,
        None,
    ]
    assert as_text(pl.Series([7, None])).to_list() == ["7", None]
    assert as_text(pl.Series(["007", ""])).to_list() == ["007", ""]
    assert as_text(pl.Series([True, None])).to_list() == ["true", None]
    assert as_text(pl.Series([b"ab", b"\xff"])).to_list() == ["ab", "�"]
    assert as_text(pl.Series([[1, 2], None])).to_list() == ['{"value":[1,2]}', None]
    assert as_text(pl.Series([None, None])).to_list() == [None, None]


def test_huge_floats_are_not_cut_to_whole_numbers():
    assert as_text(pl.Series([1e300, -0.0])).to_list() == ["1e+300", "0"]


def test_numbers_from_text():
    column = pl.Series([" 2.55", "1e3", "x", "", None, "1,000"])
    assert as_number(column).to_list() == [2.55, 1000.0, None, None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "2011-10-15T12:00:00Z",
        "2011-10-15 12:00:00",
        "2011-10-15 12:00",
        "2011-10-15T14:00:00+02:00",
        "2011-10-15T14:00+0200",
        " 2011-10-15T12:00:00.000000z ",
    ],
)
def test_times_from_text(text):
    assert as_time(pl.Series([text]), unit=None).to_list() == [NOON]


def test_forms_may_be_mixed_and_junk_is_null():
    column = pl.Series(["2011-10-15", "2011-10-15T12:00:00Z", "soon", "2011-13-01", "", None])
    found = as_time(column, unit=None).to_list()
    assert found == [NOON.replace(hour=0), NOON, None, None, None, None]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_times_from_numbers(unit, factor):
    number = int(NOON.timestamp()) * factor
    for column in ([number], [float(number)], [str(number)]):
        assert as_time(pl.Series(column), unit=unit).to_list() == [NOON]


def test_times_beyond_any_calendar_are_null():
    column = pl.Series([1e300, float("nan"), float("inf"), -1e18, 0.0])
    assert as_time(column, unit="s").to_list() == [None] * 4 + [datetime(1970, 1, 1, tzinfo=UTC)]


def test_numbers_without_a_unit_are_refused():
    for column in ([881250949], ["881250949", "x"]):
        with pytest.raises(ValueError, match=r"source\.ts_unit"):
            as_time(pl.Series(column), unit=None)


def test_times_of_their_own_type():
    there = NOON.astimezone(timezone(timedelta(hours=5)))
    assert as_time(pl.Series([NOON.replace(tzinfo=None)]), unit=None).to_list() == [NOON]
    aware = pl.Series([there.astimezone(UTC)]).dt.convert_time_zone("Asia/Tokyo")
    assert as_time(aware, unit=None).to_list() == [NOON]
    assert as_time(pl.Series([date(2011, 10, 15)]), unit=None).to_list() == [NOON.replace(hour=0)]
    assert as_time(pl.Series([True]), unit=None).to_list() == [None]


def test_a_format_of_ones_own():
    column = pl.Series(["10/15/2011 12:00", "2011-10-15 12:00"])
    assert as_time(column, unit=None, form="%m/%d/%Y %H:%M").to_list() == [NOON, None]


rows = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), min_size=1, max_size=20)


@given(rows)
def test_ids_are_equal_exactly_for_equal_rows(rows):
    table = pa.table({"a": [r[0] for r in rows], "b": [r[1] for r in rows]})
    ids = content_ids(table, {}).to_list()
    assert len(set(ids)) == len(set(rows))
    again = content_ids(table.select(["b", "a"]), {}).to_list()
    assert again == ids, "the order of columns does not matter"


def test_ids_do_not_depend_on_the_way_of_writing():
    typed = pa.table({"price": [3.0, 2.5], "code": ["a", None]})
    written = pa.table({"price": ["3.00", "2.5"], "code": ["a", None]})
    assert content_ids(typed, {}).to_list() == content_ids(written, {}).to_list()
    assert content_ids(typed, {}).to_list()[0] != content_ids(typed, {}).to_list()[1]


def test_lines_become_rows_of_text():
    lines = ['{"a": 1, "b": "x", "c": [1]}', "{oops", '{"a": 2.0, "d": true}', "[1]", "{}"]
    table = parse_lines(pa.table({LINE: lines}), ("z",))
    assert table.to_pydict() == {
        "z": [None] * 5,
        "a": ["1", None, "2", None, None],
        "b": ["x", None, None, None, None],
        "c": ["[1]", None, None, None, None],
        "d": [None, None, "true", None, None],
        REASON: [None, "not a JSON object", None, "not a JSON object", None],
    }
