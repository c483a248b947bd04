"""A batch of memories reads as each alone; levels hide what they name; popularity by day."""

import itertools
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import POLARITY
from models.features import (
    LEVELS,
    MAX_SESSION_RANK,
    FeatureConfig,
    ItemSide,
    PopularityTable,
    context_codes,
    grams,
    user_side,
)
from models.memory import Popularity, ViewSpec, sessions
from models.text import hashed
from tests.models.small import CATALOGUE, MODEL, day_ms, padded, random_side, ring, same, side

NOW = day_ms(60)
VIEW = ViewSpec()
seeds = st.integers(0, 2**32 - 1)


def random_rings(seed, most=12):
    rng = np.random.default_rng(seed)
    return [ring(rng, int(size), now_ms=NOW) for size in rng.integers(0, most, 5)]


def one(records, *, now_ms=NOW, session=0, item=None):
    """The user side of one memory."""
    batch = records[None]
    return user_side(
        batch,
        item=CATALOGUE.places(batch["item"]) if item is None else item,
        now_ms=np.asarray([now_ms]),
        session=np.asarray([session], np.uint64),
        long=np.zeros((1, 3), np.float32),
        context=np.zeros((1, 1), np.int64),
        view=VIEW,
    )


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_a_batch_reads_as_each_memory_alone(seed):
    """Training gathers batches of padded rings, serving reads one ring: the same tensors."""
    rings = random_rings(seed)
    rng = np.random.default_rng(seed)
    batch = padded(rings, 8)
    fields = {
        "now_ms": NOW + rng.integers(0, 10 * DAY_MS, 5),
        "session": rng.choice(np.asarray([0, 5, 6], np.uint64), 5),
        "long": rng.normal(size=(5, 4)).astype(np.float32),
        "context": rng.integers(0, 9, (5, 2)),
    }
    whole = user_side(batch, item=CATALOGUE.places(batch["item"]), view=VIEW, **fields)
    for row, each in enumerate(rings):
        short = each[-8:][None]
        alone = user_side(
            short,
            item=CATALOGUE.places(short["item"]),
            view=VIEW,
            **{name: value[row : row + 1] for name, value in fields.items()},
        )
        length = short.shape[1]
        for name, value in vars(alone).items():
            batched = getattr(whole, name)[row : row + 1]
            if name in ("long", "context", "now_days"):
                assert torch.equal(batched, value)
            else:
                assert torch.equal(batched[:, 8 - length :], value), name
        for name in ("recent", "sessions", "item", "action", "age_days"):
            assert not getattr(whole, name)[row, : 8 - length].any(), name


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_session_ranks_of_padded_rings_are_those_of_the_rings(seed):
    rings = random_rings(seed)
    current = np.random.default_rng(seed).choice(np.asarray([0, 5, 6], np.uint64), 5)
    options = {"now_ms": NOW, "gap_ms": VIEW.session_gap}
    together = sessions.ranks(padded(rings, 12), session=current, **options)
    for row, each in enumerate(rings):
        alone = sessions.ranks(each, session=current[row], **options)
        assert together[row, 12 - len(each) :].tolist() == alone.tolist()


def test_ages_places_and_sessions_of_a_known_ring():
    records = padded([ring(np.random.default_rng(0), 3, now_ms=NOW)], 4)[0]
    records["ts"][1:] = [NOW - 2 * DAY_MS, NOW - DAY_MS // 4, NOW + 5]
    records["session"], records["action"][1:] = 0, [11, 3, 34]
    user = one(records, item=np.asarray([[9, 1, 2, 3]]))
    assert user.item.tolist() == [[0, 1, 2, 3]], "padding has no item"
    assert user.action.tolist() == [[0, 11, 3, 34]]
    assert user.age_days.tolist() == [[0.0, 2.0, 0.25, 0.0]], "no age is below zero"
    assert user.session[0, 1:].tolist() == [2, 1, 0]
    assert user.now_days.tolist() == [NOW / DAY_MS]
    assert user.now_days.dtype == torch.float64


def test_session_ranks_are_bounded():
    records = ring(np.random.default_rng(0), 20, now_ms=NOW)
    records["ts"], records["session"] = NOW - DAY_MS * np.arange(20, 0, -1), 0
    user = one(records)
    assert user.session[0].tolist() == [*[MAX_SESSION_RANK] * 14, *range(6, 0, -1)]
    assert MAX_SESSION_RANK == 7


def test_the_newest_of_a_ring_are_read_one_by_one_and_all_of_it_for_candidates():
    batch = padded(random_rings(3), 12)
    places = CATALOGUE.places(batch["item"])
    options = {
        "now_ms": np.full(5, NOW),
        "session": np.zeros(5, np.uint64),
        "long": np.ones((5, 2), np.float32),
        "context": np.zeros((5, 1), np.int64),
        "view": VIEW,
    }
    found = user_side(batch, item=places, features=FeatureConfig(history=4), **options)
    newest = user_side(batch[:, -4:], item=places[:, -4:], **options)
    spoken = POLARITY[batch["action"]] > 0
    assert found.life_item.tolist() == np.where(spoken, places, 0).tolist()
    ages = np.where(spoken, (NOW - batch["ts"]) / DAY_MS, 0)
    np.testing.assert_allclose(found.life_days, ages, rtol=1e-6)
    for name in ("item", "action", "age_days", "session", "recent", "sessions"):
        assert torch.equal(getattr(found, name), getattr(newest, name)), name


@pytest.mark.parametrize("levels", list(itertools.product([False, True], repeat=3)))
def test_keep_hides_exactly_the_levels_named(levels):
    user = random_side(4)
    kept = user.keep(torch.tensor([levels]).expand(4, 3))
    hidden = dict(zip(("recent", "sessions", "long"), levels, strict=True))
    assert len(hidden) == len(LEVELS)
    hidden["life_item"] = hidden["long"]
    for name, value in vars(user).items():
        expected = value if hidden.get(name, True) else torch.zeros_like(value)
        assert torch.equal(getattr(kept, name), expected), name
    assert user.recent[1].all()
    assert user.long.all()


def test_keep_is_for_each_request_of_its_own():
    user = replace(random_side(3), long=torch.ones(3, 2))
    kept = user.keep(torch.tensor([[True] * 3, [False, True, True], [True, True, False]]))
    assert kept.recent.any(1).tolist() == [False, False, True]
    assert kept.sessions.any(1).tolist() == [False, True, True]
    assert kept.long[:, 0].tolist() == [1, 1, 0]


events = st.lists(st.tuples(st.integers(0, 6 * DAY_MS), st.integers(0, 3)), max_size=30)


@settings(max_examples=50, deadline=None)
@given(events=events, moments=st.lists(st.integers(0, 8 * DAY_MS), min_size=1, max_size=5))
def test_popularity_is_that_of_the_days_before_today(events, moments):
    times, items = np.asarray(events, np.int64).reshape(-1, 2).T
    halves = (DAY_MS, 3 * DAY_MS)
    table = PopularityTable(Popularity.fold(times, items, 4), halves)
    now = torch.from_numpy(np.asarray(moments) / DAY_MS)
    found = table.read(now, torch.tensor([[3, 0, 1, 2]]).expand(len(moments), 4))
    for row, moment in enumerate(moments):
        today = moment // DAY_MS
        expected = np.zeros((4, 2))
        for at, item in events:
            if at // DAY_MS < today:
                age = today - (at // DAY_MS + 0.5)
                expected[item] += [2 ** (-age * DAY_MS / half) for half in halves]
        scaled = np.log1p(expected)[[3, 0, 1, 2]] / 4
        np.testing.assert_allclose(found[row].numpy(), scaled, rtol=1e-5, atol=1e-7)


def test_moments_lie_in_the_step_that_holds_them():
    step = DAY_MS // 96
    times, items = np.asarray([0, step - 1, step, 5 * step]), np.asarray([1, 1, 2, 1])
    table = PopularityTable(Popularity.fold(times, items, 3, step), (DAY_MS,))
    now = np.asarray([0, step - 1, step, 2 * step, 6 * step - 1, 6 * step])
    steps, where = table.steps(torch.from_numpy(now / DAY_MS))
    assert np.asarray(steps)[where.numpy()].tolist() == (now // step).tolist()
    seen = table.read(torch.from_numpy(now / DAY_MS), torch.tensor([[1, 2]]).expand(6, 2)) > 0
    assert seen[..., 0].tolist() == [
        [False, False],
        [False, False],
        [True, False],
        [True, True],
        [True, True],
        [True, True],
    ]


def test_a_table_of_a_day_is_the_reading_of_that_day():
    rng = np.random.default_rng(3)
    popularity = Popularity.fold(rng.integers(0, 9 * DAY_MS, 300), rng.integers(0, 5, 300), 5)
    table = PopularityTable(popularity, (DAY_MS,))
    for day in (0, 1, 5, 30):
        read = popularity.read(day * DAY_MS + 1234, (DAY_MS,))
        assert torch.equal(table.step(day), torch.from_numpy(np.log1p(read) / 4))
    late = torch.tensor([6 - 1e-12], dtype=torch.float64)
    assert torch.equal(table.read(late, torch.arange(5)[None])[0], table.step(5))


def test_context_codes_are_stable_and_unknown_is_zero():
    config = FeatureConfig(context_buckets=64)
    columns = [["France", None, "", "Spain"], ["a", "France", "a", "b"]]
    codes = context_codes(columns, config, num=4)
    assert codes[1:3, 0].tolist() == [0, 0]
    assert codes[0, 0] == codes[1, 1] == 1 + zlib.crc32(b"France") % 63
    assert codes[0, 1] == codes[2, 1] != codes[3, 1]
    assert codes.min() == 0
    for row in range(4):
        alone = context_codes([[column[row]] for column in columns], config, num=1)
        assert alone.tolist() == [codes[row].tolist()]
    assert context_codes([], config, num=3).shape == (3, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=9), st.integers(2, 5))
def test_context_codes_fit_their_table(texts, buckets):
    codes = context_codes([texts], FeatureConfig(context_buckets=buckets), num=len(texts))
    assert codes.max() < buckets
    assert (codes[:, 0] > 0).tolist() == [bool(text) for text in texts]


def test_grams_are_the_first_ones_of_each_text_then_padding():
    config = FeatureConfig(text_buckets=256, text_grams=5)
    found = grams(["red", "a red mug of the town", ""], config)
    long = hashed("a red mug of the town", 256)[:5].tolist()
    assert found.tolist() == [[*hashed("red", 256), 0], long, [0] * 5]


def test_the_item_side_is_the_catalogue_and_no_part_of_the_weights():
    items = ItemSide(CATALOGUE, MODEL.features)
    assert items.categories.tolist() == CATALOGUE.categories.tolist()
    assert items.numbers.tolist() == CATALOGUE.numbers.tolist()
    assert torch.equal(items.text, grams(CATALOGUE.texts, MODEL.features))
    assert items.first_seen_days[5].item() == CATALOGUE.first_seen_ms[5] / DAY_MS
    assert not items.state_dict()


def test_only_the_newest_interactions_fit():
    records = ring(np.random.default_rng(1), 12, now_ms=NOW)
    user = side([records], now_ms=NOW)
    assert user.action.tolist() == [records["action"][-8:].tolist()]


@pytest.mark.parametrize(
    "levels", [(), ("user",), ("session", "interaction"), ("user", "user", "user"), LEVELS]
)
def test_levels_that_a_model_may_not_read_are_hidden_from_the_start(levels):
    batch = padded(random_rings(4), 8)
    options = {
        "item": CATALOGUE.places(batch["item"]),
        "now_ms": np.full(5, NOW),
        "session": np.zeros(5, np.uint64),
        "long": np.ones((5, 2), np.float32),
        "context": np.zeros((5, 1), np.int64),
        "view": VIEW,
    }
    kept = torch.tensor([[level in levels for level in LEVELS]]).expand(5, -1)
    features = FeatureConfig(levels=levels)
    found = user_side(batch, features=features, **options)
    assert same(found, user_side(batch, **options).keep(kept))
