"""The item table: of first events, or of a table of its own."""

from __future__ import annotations

import pyarrow as pa
import pytest

from models.catalogue import Catalogue, CatalogueConfig
from models.events import TIMESTAMP
from models.items import catalogue_table, first_rows
from models.mapping import ItemsConfig, SourceConfig

SOURCE = SourceConfig(path="x.parquet")
CONFIG = CatalogueConfig(categories=("kind",), numbers=("price",))


def events(*rows):
    """Rows of (item, ts, event, text, kind, price)."""
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "item_id": columns[0],
            "ts": pa.array(columns[1], TIMESTAMP),
            "event_id": columns[2],
            "user_id": ["u"] * len(rows),
            "item_text": columns[3],
            "item_kind": columns[4],
            "item_price": columns[5],
        }
    )


LOG = events(
    ("b", 20, "e2", "old b", "toy", "2"),
    ("a", 10, "e1", "a", "mug", "1.5"),
    ("b", 30, "e3", "new b", "mug", "9"),
    ("b", 20, "e1", "first b", "hat", "x"),
)


def test_fields_are_those_of_the_first_event():
    table = catalogue_table(first_rows(LOG), catalogue=CONFIG, items=ItemsConfig(), source=SOURCE)
    assert table["item_id"].to_pylist() == ["a", "b"]
    assert table["text"].to_pylist() == ["a", "first b"]
    assert table["kind"].to_pylist() == ["mug", "hat"]
    assert table["price"].to_pylist() == [1.5, None]
    assert Catalogue(table, CONFIG).first_seen_ms.tolist()[1:] == [10, 20]


def test_first_of_the_firsts_is_first_of_all():
    parts = [first_rows(LOG.slice(start, 2)) for start in (2, 0)]
    assert first_rows(pa.concat_tables(parts)).equals(first_rows(LOG))


def test_searches_without_an_item_are_no_item():
    search = events((None, 5, "e9", None, None, None))
    log = pa.concat_tables([LOG, search], promote_options="permissive")
    assert first_rows(log)["item_id"].to_pylist() == ["a", "b"]


def own(**given):
    return pa.table({"id": [2, 1, 3], "name": ["B", "A", "C"], "kind": ["x", "y", None], **given})


OWN = ItemsConfig(path="items.csv", columns={"item_id": "id", "text": "name", "kind": "kind"})


def of_own(table, items=OWN, log=None):
    log = log or events(("1", 40, "e1", "", "", ""), ("9", 20, "e2", "", "", ""))
    config = CatalogueConfig(categories=("kind",))
    return catalogue_table(
        first_rows(log), catalogue=config, items=items, source=SOURCE, own=table
    ).to_pylist()


def test_a_table_of_its_own_is_joined_with_what_events_name():
    rows = of_own(own())
    assert [row["item_id"] for row in rows] == ["2", "3", "9", "1"]
    assert [row["text"] for row in rows] == ["B", "C", None, "A"]
    assert [row["first_seen"].timestamp() * 1000 for row in rows] == [20, 20, 20, 40]


def test_a_table_may_say_when_items_appeared():
    items = ItemsConfig(path="items.csv", columns={**OWN.columns, "first_seen": "since"})
    table = own(since=["1970-01-01", None, "1970-01-02"])
    rows = {row["item_id"]: row["first_seen"].timestamp() for row in of_own(table, items)}
    assert rows == {"1": 0.04, "2": 0.0, "3": 86_400.0, "9": 0.02}


def test_what_is_wrong_with_an_item_table_is_said():
    with pytest.raises(ValueError, match=r"items\.columns\.text: there is no column 'name'; items"):
        of_own(own().drop(["name"]))
    with pytest.raises(ValueError, match="2 rows have no item id or share one, such as '2'"):
        of_own(pa.table({"id": [2, 2], "name": ["B", "A"], "kind": ["x", "y"]}))


def test_a_field_that_nobody_has_is_named():
    config = CatalogueConfig(numbers=("weight",))
    with pytest.raises(ValueError, match="catalogue names weight, which no item has"):
        catalogue_table(first_rows(LOG), catalogue=config, items=ItemsConfig(), source=SOURCE)
