"""From a source's columns to the contract's: renamed, read, and told apart."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from models.columns import REASON
from models.events import SCHEMA
from models.mapping import ItemsConfig, SourceConfig, clean, map_rows

NOW_MS = 1_700_000_000_000
COLUMNS = {"user_id": "who", "item_id": "what", "ts": "when", "action": "how"}


def source(**given):
    return SourceConfig(path="x.parquet", **{"columns": COLUMNS, **given})


def raw(**given):
    rows = {
        "who": [1.0, 2.0],
        "what": ["a", "b"],
        "when": ["2020-01-01", "2020-01-02"],
        "how": ["view", "purchase"],
    }
    return pa.table({**rows, **given})


def mapped(table, items=None, context=(), **given):
    return map_rows(table, source=source(**given), items=items or ItemsConfig(), context=context)


def test_columns_are_renamed_and_read():
    found = mapped(raw()).to_pydict()
    assert found["user_id"] == ["1", "2"]
    assert found["action"] == ["view", "purchase"]
    assert [t.isoformat() for t in found["ts"]] == [
        "2020-01-01T00:00:00+00:00",
        "2020-01-02T00:00:00+00:00",
    ]
    assert found[REASON] == [None, None]


def test_a_column_with_a_contract_name_is_taken_as_it_is():
    table = raw(query=["chairs", None])
    assert mapped(table).to_pydict()["query"] == ["chairs", None]
    left_out = mapped(table, columns={**COLUMNS, "query": None})
    assert "query" not in left_out.column_names


@pytest.mark.parametrize("name", ["user_id", "ts", "action", "session_id"])
def test_a_missing_column_is_named_with_its_key_and_what_is_there(name):
    with pytest.raises(ValueError, match=rf"source\.columns\.{name}.*'gone'.*who, what, when, how"):
        mapped(raw(), columns={**COLUMNS, name: "gone"})


def test_a_required_column_that_nobody_mapped_is_named():
    with pytest.raises(ValueError, match=r"source\.columns\.user_id: there is no column 'user_id'"):
        mapped(raw(), columns={"ts": "when", "action": "how"})


def test_missing_item_and_context_columns_are_named():
    with pytest.raises(ValueError, match=r"items\.columns\.text: .*'title'"):
        mapped(raw(), items=ItemsConfig(columns={"text": "title"}))
    with pytest.raises(ValueError, match=r"source\.columns\.context_city: .*'context_city'"):
        mapped(raw(), context=("city",))


def test_item_and_context_columns_are_text():
    table = raw(title=["A", None], price=[1.5, 2.0], town=["Bonn", "Kiel"])
    items = ItemsConfig(columns={"text": "title", "price": "price"})
    found = mapped(table, items, ("city",), columns={**COLUMNS, "context_city": "town"})
    assert found.select(["item_text", "item_price", "context_city"]).to_pydict() == {
        "item_text": ["A", None],
        "item_price": ["1.5", "2"],
        "context_city": ["Bonn", "Kiel"],
    }


def test_items_of_a_table_of_their_own_are_not_looked_for_in_events():
    items = ItemsConfig(path="items.csv", columns={"text": "title"})
    assert "item_text" not in mapped(raw(), items).column_names


@pytest.mark.parametrize("values", [[5, 3], [5.0, 3.0], ["5", "3"]])
def test_source_values_are_compared_as_text(values):
    found = mapped(raw(how=values), actions={5: "like", "3": "view"})
    assert found["action"].to_pylist() == ["like", "view"]


def test_a_value_without_a_mapping_stands_for_itself():
    found = mapped(raw(how=["buy", "view"]), actions={"buy": "purchase"})
    assert found["action"].to_pylist() == ["purchase", "view"]


def test_one_action_for_all_rows():
    columns = {name: column for name, column in COLUMNS.items() if name != "action"}
    found = mapped(raw(), columns=columns, action="hire")
    assert found["action"].to_pylist() == ["hire", "hire"]


def test_equal_rows_get_one_event_id_and_others_do_not():
    table = pa.concat_tables([raw(), raw()])
    ids = mapped(table)["event_id"].to_pylist()
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_an_event_id_of_its_own_is_kept():
    found = mapped(raw(id=[10, 11]), columns={**COLUMNS, "event_id": "id"})
    assert found["event_id"].to_pylist() == ["10", "11"]


def test_columns_that_are_not_mapped_tell_rows_apart():
    table = pa.concat_tables([raw(amount=[1, 1]), raw(amount=[2, 1])])
    ids = mapped(table)["event_id"].to_pylist()
    assert ids[0] != ids[2]
    assert ids[1] == ids[3]


def test_config_says_what_is_wrong():
    with pytest.raises(ValidationError, match="colour: no column of the event contract"):
        SourceConfig(path="x", columns={"colour": "c"})
    with pytest.raises(ValidationError, match="buy is not in the vocabulary"):
        SourceConfig(path="x", actions={"b": "buy"})
    with pytest.raises(ValidationError, match="excludes"):
        SourceConfig(path="x", action="view", columns={"action": "how"})
    with pytest.raises(ValidationError, match="lower-case words"):
        ItemsConfig(columns={"Full Text": "t"})


def test_configs_with_equal_values_have_equal_digests():
    assert source().digest() == source().digest()
    assert source().digest() != source(delay="1h").digest()


def cleaned(table, **given):
    return clean(table, mapped(table, **given), source=source(**given), now_ms=NOW_MS)


def test_every_row_is_either_good_or_in_quarantine_with_itself():
    table = raw(who=[1.0, None], how=["view", "view"])
    rows = cleaned(table).to_pylist()
    assert [row["reason"] for row in rows] == [None, "no user_id"]
    assert rows[0]["user_id"] == "1"
    assert rows[0]["row"] is None
    assert json.loads(rows[1]["row"]) == {
        "who": None,
        "what": "b",
        "when": "2020-01-02",
        "how": "view",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"when": ["2020-01-01", "someday"]}, "no or unparsable ts"),
        ({"when": ["2020-01-01", "2999-01-01"]}, "ts in the future"),
        ({"how": ["view", "stare"]}, "unknown action"),
        ({"what": ["a", None]}, "no item_id"),
        ({"value": ["1.5", "much"]}, "value cannot be read"),
        ({"arrived_at": ["2020-01-01", "later"]}, "arrived_at cannot be read"),
        ({"position": ["1", "first"]}, "position cannot be read"),
    ],
)
def test_a_wrong_row_has_its_reason(change, reason):
    assert cleaned(raw(**change))["reason"].to_pylist() == [None, reason]


def test_an_adapters_reason_comes_first():
    table = raw(how=["stare", "stare"])
    told = table.append_column(REASON, pa.array(["a gift", None], pa.string()))
    rows = clean(table, mapped(told), source=source(), now_ms=NOW_MS)
    assert rows["reason"].to_pylist() == ["a gift", "unknown action"]


def test_good_rows_keep_their_fields_beside_wrong_ones():
    table = raw(who=[None, 2.0], title=["A", "B"])
    items = ItemsConfig(columns={"text": "title"})
    rows = clean(table, mapped(table, items), source=source(), now_ms=NOW_MS)
    good = rows.filter(rows["reason"].is_null())
    assert good["item_text"].to_pylist() == ["B"]
    assert set(SCHEMA.names) <= set(good.column_names)


def test_arrival_is_delayed_where_it_is_not_given():
    rows = cleaned(raw(), delay="1h").to_pylist()
    assert (rows[0]["arrived_at"] - rows[0]["ts"]).total_seconds() == 3600


def test_no_rows_are_no_trouble():
    table = raw().slice(0, 0)
    assert len(cleaned(table)) == 0
