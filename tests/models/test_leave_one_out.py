"""Leave one out: what is held back is a matter of one user's order, and nothing of it trains."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.catalogue import Catalogue, CatalogueConfig
from models.events import SCHEMA, key64, validate
from models.examples import Examples, requests_of
from models.features import FeatureConfig
from models.leave_one_out import (
    AEON_MS,
    NONE,
    TEST,
    TRAIN,
    VALIDATE,
    always_known,
    splits,
    training_events,
)
from models.memory import MemorySpec, StateSpec
from models.parts import Part, partition
from models.records import pack
from models.requests import SPLITS, RequestConfig
from models.retrieval.towers import RetrieverConfig
from models.training import NegativeSampler

MEMORY = MemorySpec(state=StateSpec(ring=8, num_interests=2))
CONFIG = RequestConfig(labels=("view", "purchase"), per="event", split="leave_one_out")
BEGIN = 1_000_000_000_000
ITEMS = "abcdef"
FEATURES = FeatureConfig(
    history=8, popularity_step=AEON_MS, popularity_half_lives=(AEON_MS,), text_grams=2
)
CATALOGUE = Catalogue(
    always_known(
        pa.table(
            {
                "item_id": list(ITEMS[::-1]),
                "text": list(ITEMS),
                "first_seen": pa.array(range(6), pa.timestamp("ms", "UTC")),
            }
        )
    ),
    CatalogueConfig(num_interests=2),
)
event_rows = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 30),
            "item_id": st.sampled_from(ITEMS),
            "action": st.sampled_from(["view", "purchase", "purchase", "cancel"]),
            "user_id": st.sampled_from("uvw"),
            "wait": st.sampled_from([0, 0, 0, 5, 100]),
        }
    ),
    min_size=1,
    max_size=24,
)


def rows_of(rows, first: int = 0) -> pa.Table:
    full = [
        {
            **{name: row[name] for name in ("user_id", "item_id", "action")},
            "event_id": f"e{place}",
            "ts": BEGIN + row["at"],
            "arrived_at": BEGIN + row["at"] + row["wait"],
        }
        for place, row in enumerate(rows, start=first)
    ]
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    return pack(validate(pa.Table.from_pylist(full, nullable), now_ms=2 * BEGIN).good)


def parted(rows) -> Part:
    return partition(rows_of(rows), requests=CONFIG, memory=MEMORY)


def examples_of(part: Part) -> tuple[Examples, pa.Table]:
    table = part.requests.sort_by("as_of")
    requests = requests_of(table, histories=part.histories, catalogue=CATALOGUE, features=FEATURES)
    held = np.flatnonzero(np.asarray(table["split"]) != "train")
    trains = training_events(part.histories, requests.user[held], requests.as_of_ms[held])
    examples = Examples(
        requests,
        histories=part.histories,
        catalogue=CATALOGUE,
        features=FEATURES,
        memory=MEMORY,
        trains=trains,
    )
    return examples, table


def buys(*items, user="u", **more):
    return [
        {"at": n, "item_id": i, "action": "purchase", "user_id": user, "wait": 0, **more}
        for n, i in enumerate(items)
    ]


def split_of(part: Part) -> dict[str, str]:
    """The split of each request by its item, for users who met an item once."""
    names = {key64(item): item for item in ITEMS}
    rows = part.requests.to_pylist()
    return {names[row["items"][0]]: row["split"] for row in rows}


def test_the_last_tests_the_one_before_validates_the_others_train():
    assert split_of(parted(buys(*"fabc"))) == {
        "f": "train",
        "a": "train",
        "b": "validate",
        "c": "test",
    }


def test_a_user_with_two_events_of_interest_only_trains():
    part = parted([*buys("a", "b"), *buys("c", "d", "e", user="v")])
    assert split_of(part) == {
        "a": "train",
        "b": "train",
        "c": "train",
        "d": "validate",
        "e": "test",
    }


def test_what_lies_beside_the_held_back_is_in_no_split():
    rows = buys(*"abcdef")
    for place in (0, 3, 5):  # before all, between the validation and the test, and after it
        rows[place]["action"] = "view"
    assert split_of(parted(rows)) == {"a": "train", "b": "train", "c": "validate", "e": "test"}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
def test_splits_are_those_of_a_loop_over_each_user(events):
    events = sorted(events, key=lambda event: event[0])
    owner, target = (np.asarray([e[n] for e in events], (np.int64, bool)[n]) for n in (0, 1))
    expected = []
    for user in dict.fromkeys(owner.tolist()):
        own = [hit for who, hit in events if who == user]
        held = [n for n, hit in enumerate(own) if hit][-2:] if sum(own) >= 3 else [99, 99]
        for place in range(len(own)):
            if place == held[1]:
                expected.append(TEST)
            elif place == held[0]:
                expected.append(VALIDATE)
            else:
                expected.append(TRAIN if place < held[0] else NONE)
    assert splits(owner, target).tolist() == expected


@given(event_rows)
def test_nothing_that_is_held_back_ever_trains(rows):
    """Not as an outcome, not in popularity or negatives, not in the memory of what trains."""
    part = parted(rows)
    if not len(part.requests):
        return
    examples, table = examples_of(part)
    split = np.asarray(table["split"])
    event = np.asarray([int(text, 16) for text in table["request_id"].to_pylist()], np.uint64)
    held = {(examples.requests.user[row], event[row]) for row in np.flatnonzero(split != "train")}
    owner = np.repeat(np.arange(len(part.histories.users)), np.diff(part.histories.offsets))
    keys = part.histories.interactions["event"]
    is_held = np.asarray([pair in held for pair in zip(owner, keys, strict=True)])
    assert not (examples.trains & is_held).any()
    for row in np.flatnonzero(split == "train"):
        user, moment = examples.requests.user[row], examples.requests.as_of_ms[row]
        low, high = part.histories.offsets[user : user + 2]
        seen = np.arange(low, high)[part.histories.arrived[low:high] < moment]
        assert not is_held[seen].any()
        ring = part.histories.ring_rows(np.asarray([user]), np.asarray([moment]), MEMORY.state)
        assert not is_held[ring[ring >= 0]].any()
    spoken = np.isin(part.histories.interactions["action"], (3, 11))
    counts = np.bincount(examples.places[examples.trains & spoken], minlength=len(CATALOGUE))
    assert examples.item_memory.counts.sum(0).tolist() == counts.tolist()
    trained = examples.requests.pairs(np.flatnonzero(split == "train"))[1]
    told = Counter(examples.places[~is_held & spoken].tolist())
    assert all(num <= told[place] for place, num in Counter(trained.tolist()).items())
    sampler = NegativeSampler(trained, len(CATALOGUE), RetrieverConfig(num_negatives=4))
    absent = [place for place in range(1, len(CATALOGUE)) if place not in set(trained.tolist())]
    assert len({float(sampler.log_q[place]) for place in absent}) <= 1


@given(event_rows, st.integers(0, 3))
def test_a_user_who_comes_back_is_split_anew(rows, cut):
    """An incremental build gives what all rows at once give, readings of memory included."""
    order = sorted(rows, key=lambda row: row["at"] + row["wait"])
    cut = max(len(order) - cut, 1)
    old = partition(rows_of(order[:cut]), requests=CONFIG, memory=MEMORY)
    fresh = rows_of(order[cut:], first=cut)
    coming = set(fresh["user_id"].to_pylist())
    mask = pa.array([user in coming for user in old.users["user_id"].to_pylist()])
    owners = np.repeat(np.asarray(old.users["user_id"].to_pylist()), old.users["num"].to_numpy())
    keep = pa.array(np.isin(owners, list(coming)))
    if not pa.compute.any(mask).as_py():
        return
    before_rows = old.rows.add_column(0, "user_id", pa.array(owners.tolist())).filter(keep)
    asked = old.requests.filter(
        pa.compute.is_in(old.requests["user_id"], value_set=pa.array(sorted(coming)))
    )
    before = (before_rows.select(fresh.column_names).cast(fresh.schema), asked)
    both = partition(fresh, requests=CONFIG, memory=MEMORY, before=before)
    theirs = [row for row in order if row["user_id"] in coming]
    assert len(both.rows) == len(theirs)
    whole = partition(rows_of(order), requests=CONFIG, memory=MEMORY)
    wanted = whole.requests.filter(
        pa.compute.is_in(whole.requests["user_id"], value_set=pa.array(sorted(coming)))
    )
    assert both.requests.to_pylist() == wanted.to_pylist()


def test_all_items_are_known_and_remember_the_same_at_all_moments():
    examples, _ = examples_of(parted(buys(*"abcde")))
    assert CATALOGUE.item_ids == sorted(ITEMS)
    assert not CATALOGUE.first_seen_ms[1:].any()
    places = torch.arange(len(CATALOGUE)).expand(3, -1)
    days = torch.tensor([1.0, 10_957.3, 36_000.9], dtype=torch.double)
    found = examples.popularity.read(days, places)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    remembered = {CATALOGUE.item_ids[p - 1] for p in torch.nonzero(found[0, :, 0])[:, 0]}
    assert remembered == set("abc")  # d validates, e tests


def test_what_a_test_request_may_know_is_all_before_it():
    examples, table = examples_of(parted(buys(*"abcde")))
    row = np.flatnonzero(np.asarray(table["split"]) == "test")
    seen = examples.seen(row)[0].tolist()
    assert [CATALOGUE.item_ids[place - 1] for place in seen] == list("abcd")


def test_what_does_not_go_with_it_is_refused():
    assert RequestConfig(labels=("view",), per="event", split="leave_one_out").target == "view"
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    for wrong, message in [
        ({"per": "session"}, "needs per: event, not per: session"),
        ({"validate_from": moment}, "no common time: leave out validate_from"),
        ({"test_from": moment, "warmup": moment}, "leave out test_from, warmup"),
        ({"outcome_window": "1d"}, "leave out outcome_window"),
        ({"split": "time"}, "validate_from and test_from are needed"),
        ({"split": "time", "test_from": moment}, "validate_from and test_from are needed"),
    ]:
        given_ = {"labels": ("view",), "per": "event", "split": "leave_one_out", **wrong}
        with pytest.raises(ValidationError, match=message):
            RequestConfig(**given_)


def test_the_places_of_splits_are_those_of_requests():
    assert [SPLITS[place] for place in (TRAIN, VALIDATE, TEST)] == ["train", "validate", "test"]
