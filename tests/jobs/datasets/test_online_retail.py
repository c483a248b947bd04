"""The adapter of the bundled data set: which line becomes what, and which is turned away."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.datasets.online_retail as online_retail
from jobs.datasets.online_retail.nouns import OTHER, head_noun
from models.columns import REASON

BUNDLED = Path(online_retail.__file__).with_name("online_retail.parquet")
LINE = {
    "InvoiceNo": "536365",
    "StockCode": "85123a",
    "Description": " WHITE HANGING HEART T-LIGHT HOLDER ",
    "Quantity": 6,
    "InvoiceDate": datetime(2010, 12, 1, 8, 26),  # noqa: DTZ001  # the data has no zone
    "UnitPrice": 2.5,
    "CustomerID": 17850,
    "Country": "United Kingdom",
}


def adapt(*changes):
    schema = pq.read_schema(BUNDLED)
    rows = [{**LINE, **change} for change in changes]
    return online_retail.adapt(pa.Table.from_pylist(rows, schema)).to_pylist()


def test_a_line_becomes_a_purchase():
    (event,) = adapt({})
    assert event.pop("event_id")
    assert event.pop("ts").isoformat() == "2010-12-01T08:26:00+00:00"
    assert event == {
        "user_id": "17850",
        "item_id": "85123A",
        "session_id": "536365",
        "action": "purchase",
        "value": 15.0,
        "item_text": "WHITE HANGING HEART T-LIGHT HOLDER",
        "item_category": "HOLDER",
        "item_price": 2.5,
        "context_country": "United Kingdom",
        REASON: None,
    }


def test_a_cancellation_is_one():
    (event,) = adapt({"InvoiceNo": "C536365", "Quantity": -6})
    assert (event["action"], event["value"], event[REASON]) == ("cancel", 15.0, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CustomerID": None}, "no customer"),
        ({"StockCode": "POST"}, "not a product"),
        ({"StockCode": None}, "not a product"),
        ({"UnitPrice": 0.0}, "price not above zero"),
        ({"UnitPrice": None}, "price not above zero"),
        ({"Quantity": 0}, "no quantity"),
        ({"Quantity": -6}, "disagree"),
        ({"InvoiceNo": "C1"}, "disagree"),
        ({"InvoiceNo": None}, "disagree"),
        ({"CustomerID": None, "StockCode": "POST"}, "no customer"),
    ],
)
def test_a_line_that_is_no_event_says_why(change, reason):
    (event,) = adapt(change)
    assert reason in event[REASON]


def test_equal_lines_are_one_event_and_others_are_not():
    changes = [{}, {}, {"Quantity": 7}, {"Description": "HOLDER"}, {"Country": "France"}]
    ids = [event["event_id"] for event in adapt(*changes)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_text_columns_give_the_same_events():
    changes = ({}, {"UnitPrice": 3.0}, {"CustomerID": None}, {"InvoiceNo": "C1", "Quantity": -1})
    texts = [
        {
            "InvoiceDate": "2010-12-01T08:26:00.000000",
            "CustomerID": None if "CustomerID" in change else "17850.0",
            "UnitPrice": f"{change.get('UnitPrice', 2.5):.3f}",
            "Quantity": str(change.get("Quantity", 6)),
            "InvoiceNo": change.get("InvoiceNo", "536365"),
        }
        for change in changes
    ]
    written = pa.Table.from_pylist([{**LINE, **text} for text in texts])
    events = online_retail.adapt(written).to_pylist()
    for event, expected in zip(events, adapt(*changes), strict=True):
        # An id written as a float is another text; everything else is read to the same.
        event["user_id"] = event["user_id"] and event["user_id"].removesuffix(".0")
        assert event == expected


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"no column Country; the source has InvoiceNo"):
        online_retail.adapt(pa.Table.from_pylist([LINE]).drop(["Country"]))


@pytest.mark.parametrize(
    ("description", "noun"),
    [
        ("JUMBO BAG RED RETROSPOT", "BAG"),
        ("SET 7 BABUSHKA NESTING BOXES", "BOX"),
        ("SET OF 3 CAKE TINS PANTRY DESIGN", "TIN"),
        ("LUNCH BOX WITH CUTLERY RETROSPOT", "BOX"),
        ("DECOUPAGE,GREETING CARD,", "CARD"),
        ("EASTER CRAFT 4 CHICKS", "CHICK"),
        ("CHILDS SCISSORS", "SCISSOR"),
        ("gumball", OTHER),
        ("", OTHER),
    ],
)
def test_head_nouns(description, noun):
    assert head_noun(description) == noun


def test_the_bundled_file_is_whole():
    assert pq.read_metadata(BUNDLED).num_rows == 541_909
