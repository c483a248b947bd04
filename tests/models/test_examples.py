"""Requests point into histories: what they may see, and what came of them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.config import DAY_MS
from models.events import INTERACTION, POLARITY, key64
from models.examples import Examples, requests_of
from models.features import FeatureConfig
from models.memory import Histories
from tests.models.small import CATALOGUE, MODEL, examples_of, planted, same

SMALL = planted()
EXAMPLES = SMALL.examples
ROWS = np.asarray([0, 7, 60, 110])
ALL = np.arange(len(EXAMPLES.requests))


def added(histories, ts, arrived, seed):
    """The histories with one more event for every user: a purchase of a random item."""
    rng = np.random.default_rng(seed)
    parts, arrivals, num = [], [], len(histories.users)
    for user in range(num):
        low, high = histories.offsets[user : user + 2]
        extra = np.zeros(1, INTERACTION)
        extra["ts"], extra["event"], extra["action"] = ts, rng.integers(1, 2**62), 11
        extra["item"] = rng.choice(CATALOGUE.keys[1:])
        records = np.concatenate([histories.interactions[low:high], extra])
        order = np.lexsort((records["event"], records["ts"]))
        parts.append(records[order])
        arrivals.append(np.append(histories.arrived[low:high], arrived)[order])
    return Histories(
        users=histories.users,
        offsets=histories.offsets + np.arange(num + 1),
        interactions=np.concatenate(parts),
        arrived=np.concatenate(arrivals),
    )


def with_histories(histories):
    return Examples(
        EXAMPLES.requests,
        histories=histories,
        catalogue=CATALOGUE,
        features=MODEL.features,
        memory=MODEL.memory,
    )


def popularity_at(examples, rows):
    days = examples.user_side(rows).now_days
    return examples.popularity.read(days, torch.arange(len(CATALOGUE)).expand(len(rows), -1))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    ("happened", "arrived"), [(0, 0), (-5 * DAY_MS, 0), (-60_000, 1), (1, 1), (9 * DAY_MS, 10**9)]
)
def test_events_that_arrive_at_or_after_a_request_change_nothing_in_it(row, happened, arrived):
    as_of, one = int(EXAMPLES.requests.as_of_ms[row]), np.asarray([row])
    arrived = as_of + max(arrived, happened)
    more = with_histories(added(EXAMPLES.histories, as_of + happened, arrived, seed=row))
    assert same(more.user_side(one), EXAMPLES.user_side(one))
    assert torch.equal(popularity_at(more, one), popularity_at(EXAMPLES, one))


@pytest.mark.parametrize("row", ROWS)
def test_events_that_arrive_just_before_a_request_are_seen(row):
    as_of, one = int(EXAMPLES.requests.as_of_ms[row]), np.asarray([row])
    more = with_histories(added(EXAMPLES.histories, as_of - 60_000, as_of - 1, seed=row))
    before, after = EXAMPLES.user_side(one), more.user_side(one)
    assert torch.equal(after.item[0, :-1], before.item[0, 1:])
    assert after.age_days[0, -1].item() == pytest.approx(60_000 / DAY_MS)
    early = with_histories(added(EXAMPLES.histories, as_of - DAY_MS, as_of - DAY_MS, seed=row))
    assert (popularity_at(early, one) >= popularity_at(EXAMPLES, one)).all()
    assert not torch.equal(popularity_at(early, one), popularity_at(EXAMPLES, one))


def test_the_user_side_is_the_newest_events_of_the_requests_own_user():
    found = EXAMPLES.user_side(ALL)
    requests, histories = EXAMPLES.requests, EXAMPLES.histories
    for row in ALL:
        seen = histories.seen(int(requests.user[row]), int(requests.as_of_ms[row]))[-8:]
        places = CATALOGUE.places(seen["item"]).tolist()
        assert found.item[row].tolist() == [0] * (8 - len(places)) + places
        assert int(found.recent[row].sum()) == len(seen)
    assert len(found) == len(ALL) > 100
    assert found.long.numpy().tolist() == SMALL.table["user_features"].to_pylist()


def test_a_request_counts_nothing_that_it_led_to():
    """The events of the session itself come at or after its beginning."""
    found = EXAMPLES.user_side(ALL)
    assert (found.age_days[found.recent] > 1).all()
    assert not (found.session[found.recent] == 0).any()


def test_another_users_memory_is_read_where_it_is_asked_for():
    mine = int(EXAMPLES.requests.user[100])
    other = (mine + 1) % len(EXAMPLES.histories.users)
    as_theirs = EXAMPLES.user_side(ALL[100:101], memory_of=np.asarray([other]))
    seen = EXAMPLES.histories.seen(other, int(EXAMPLES.requests.as_of_ms[100]))[-8:]
    assert as_theirs.item[0].tolist() == CATALOGUE.places(seen["item"]).tolist()
    assert torch.equal(as_theirs.long, EXAMPLES.user_side(ALL[100:101]).long)
    nobodys = EXAMPLES.user_side(ALL[100:101], memory_of=np.asarray([-1]))
    assert not nobodys.recent.any()
    assert not nobodys.item.any()


def test_item_memory_counts_events_of_interest_on_the_day_they_arrived():
    memory, histories = EXAMPLES.item_memory, EXAMPLES.histories
    expected = {}
    for record, arrived in zip(histories.interactions, histories.arrived, strict=True):
        if POLARITY[record["action"]] > 0:
            cell = (int(arrived // DAY_MS) - memory.first, int(_place(record["item"])))
            expected[cell] = expected.get(cell, 0) + 1
    found = {cell: int(n) for cell, n in np.ndenumerate(memory.counts) if n}
    assert found == expected


def _place(key):
    return CATALOGUE.places(np.asarray([key]))[0]


def test_labels_are_what_the_table_says():
    candidates = torch.arange(len(CATALOGUE)).flip(0).expand(len(ROWS), -1)
    found = EXAMPLES.labels(ROWS, candidates, 2)
    table = SMALL.table.take(ROWS)
    for row, (items, bits) in enumerate(zip(*_columns(table), strict=True)):
        outcomes = {int(_place(np.uint64(k))): b for k, b in zip(items, bits, strict=True)}
        for number, place in enumerate(candidates[row].tolist()):
            bit = outcomes.get(place, 0)
            assert found[row, number].tolist() == [bit & 1, bit >> 1 & 1]
    assert found.sum((0, 1)).tolist() == [8, 8]


def _columns(table):
    return table["items"].to_pylist(), table["labels"].to_pylist()


def test_a_repeated_candidate_is_labelled_each_time_and_padding_never():
    which, items, bits = EXAMPLES.requests.pairs(np.asarray([3]))
    candidates = torch.tensor([[items[0], 0, items[0]]])
    found = EXAMPLES.labels(np.asarray([3]), candidates, 2)
    assert found[0, 0].tolist() == found[0, 2].tolist() == [bits[0] & 1, bits[0] >> 1]
    assert found[0, 1].tolist() == [0, 0]
    assert which.tolist() == [0] * len(items)


@pytest.mark.parametrize("rows", [[], [5], [9, 2, 9, 0], list(range(20, 40))])
def test_pairs_are_the_outcomes_of_each_row(rows):
    requests = EXAMPLES.requests
    expected = [
        (number, int(requests.outcomes[n]), int(requests.labels[n]))
        for number, row in enumerate(rows)
        for n in range(requests.offsets[row], requests.offsets[row + 1])
    ]
    found = requests.pairs(np.asarray(rows, np.int64))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def rewritten(**columns):
    table = SMALL.table.slice(0, 3)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), column)
    return table


def test_items_that_the_catalogue_lacks_are_no_outcomes():
    keys = [int(CATALOGUE.keys[3]), key64("gone"), int(CATALOGUE.keys[9])]
    table = rewritten(items=[keys[1:2], keys, keys[:1]], labels=[[1], [1, 2, 3], [2]])
    found = examples_of(table, SMALL.part).requests
    assert found.offsets.tolist() == [0, 0, 2, 3]
    assert found.outcomes.tolist() == [3, 9, 3]
    assert found.labels.tolist() == [1, 3, 2]


def test_a_user_without_a_history_is_served_from_nothing():
    table = rewritten(user_id=["user-05", "who?", "user-07"])
    examples = examples_of(table, SMALL.part)
    users = examples.requests.user
    assert users[1] == -1
    assert [examples.histories.users[int(n)].as_py() for n in users[[0, 2]]] == [
        "user-05",
        "user-07",
    ]
    assert not examples.user_side(np.asarray([1])).recent.any()


def test_columns_of_the_table_stand_in_its_order():
    found = EXAMPLES.requests
    assert found.as_of_ms.tolist() == SMALL.table["as_of"].to_pylist()
    assert found.session.tolist() == SMALL.table["session"].to_pylist()
    countries = SMALL.table["context_country"].to_pylist()
    codes = found.context[:, 0].tolist()
    assert len(set(zip(countries, codes, strict=True))) == len(set(codes)) > 1
    plain = requests_of(
        SMALL.table,
        histories=SMALL.part.histories,
        catalogue=CATALOGUE,
        features=FeatureConfig(),
    )
    assert plain.context.shape == (len(found), 0)
    assert replace(plain, context=found.context).outcomes.tolist() == found.outcomes.tolist()
