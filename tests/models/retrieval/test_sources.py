"""Sources and their merging against loops."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.events import POLARITY
from models.retrieval.sources import SOURCES, fresh, fuse, merge, remembered, trending
from tests.models.small import random_side

seeds = st.integers(0, 2**32 - 1)


def slow_remembered(user, row):
    """Places by falling weight."""
    weights = {}
    for place, action, age, seen in zip(
        user.item[row].tolist(),
        user.action[row].tolist(),
        user.age_days[row].tolist(),
        user.recent[row].tolist(),
        strict=True,
    ):
        if seen and place and POLARITY[action] > 0:
            weights[place] = weights.get(place, 0.0) + 1 / (1 + age)
    return sorted(weights, key=lambda place: -weights[place])


@settings(max_examples=50, deadline=None)
@given(seed=seeds, count=st.integers(0, 10))
def test_remembered_are_the_users_own_items_by_weight(seed, count):
    user = random_side(5, seed=seed)
    found = remembered(user, count)
    for row in range(5):
        expected = slow_remembered(user, row)[:count]
        padding = [0] * (min(count, 8) - len(expected))
        assert found[row].tolist() == expected + padding


def test_an_unknown_item_takes_no_place_from_a_known_one():
    user = random_side(2)
    user = replace(user, action=user.action.clone().fill_(11), item=torch.zeros_like(user.item))
    user.item[1, 0] = 4
    assert remembered(user, 1).tolist() == [[0], [4]]


def test_without_interaction_memory_nothing_is_remembered():
    user = random_side(4).keep(torch.tensor([[False, True, True]] * 4))
    assert not remembered(user, 5).any()
    assert remembered(random_side(4), 5).any()


def test_trending_is_by_the_fastest_half_life_and_ends_in_zeros():
    popularity = torch.tensor([[0.0, 9], [0.5, 1], [0, 9], [2, 0], [1, 5]])
    assert trending(popularity, 4).tolist() == [3, 4, 1, 0]
    assert trending(popularity, 2).tolist() == [3, 4]
    assert trending(popularity, 99).tolist() == [3, 4, 1, 0, 0]


@settings(max_examples=50, deadline=None)
@given(known=st.lists(st.integers(1, 20), max_size=5), count=st.integers(0, 8))
def test_fresh_items_are_the_newest_known_and_never_of_the_future(known, count):
    found = fresh(torch.tensor(known, dtype=torch.long), count)
    assert found.shape == (len(known), count)
    for row, num in enumerate(known):
        expected = list(range(num - 1, 0, -1))[:count]
        assert found[row].tolist() == expected + [0] * (count - len(expected))


@st.composite
def sources(draw):
    """Two requests' candidates: any sources in any order, distinct in a row but for zeros."""
    names = draw(st.lists(st.sampled_from(SOURCES), min_size=1, unique=True))
    found = {}
    for name in names:
        width = draw(st.integers(0, 5))
        rows = [
            [place * draw(st.booleans()) for place in draw(st.permutations(range(1, 9)))[:width]]
            for _ in range(2)
        ]
        found[name] = torch.tensor(rows, dtype=torch.long).reshape(2, width)
    return found


def slow_merge(found, row, total):
    """Sources take turns in the order of `SOURCES`; an item again only adds its source's bit."""
    provenance = {}
    for rank in range(5):
        for bit, name in enumerate(SOURCES):
            if name in found and rank < found[name].shape[1]:
                place = int(found[name][row, rank])
                if place:
                    provenance[place] = provenance.get(place, 0) | 1 << bit
    return list(provenance.items())[:total]


@settings(max_examples=200, deadline=None)
@given(found=sources(), total=st.integers(1, 30))
def test_merge_takes_turns_and_names_every_source_of_each_item_once(found, total):
    places, provenance = merge(found, total)
    width = min(total, sum(part.shape[1] for part in found.values()))
    assert places.shape == provenance.shape == (2, width)
    for row in range(2):
        expected = slow_merge(found, row, total)
        expected += [(0, 0)] * (width - len(expected))
        assert list(zip(places[row].tolist(), provenance[row].tolist(), strict=True)) == expected


def test_every_source_brings_its_best_before_any_is_cut():
    found = {name: torch.arange(10 * n + 1, 10 * n + 6)[None] for n, name in enumerate(SOURCES)}
    places, provenance = merge(found, 7)
    assert places.tolist() == [[1, 11, 21, 31, 41, 2, 12]]
    assert provenance.tolist() == [[1, 2, 4, 8, 16, 1, 2]]


@settings(max_examples=50, deadline=None)
@given(found=sources(), damping=st.integers(1, 60))
def test_fusion_is_the_sum_of_reciprocal_ranks_with_the_best_at_one(found, damping):
    places, _ = merge(found, 30)
    assume(places.shape[1])
    fused = fuse(places, found, damping)
    for row in range(2):
        raw = [
            sum(
                1 / (damping + 1 + part[row].tolist().index(place))
                for part in found.values()
                if place in part[row].tolist()
            )
            if place
            else 0.0
            for place in places[row].tolist()
        ]
        best = max([*raw, 1e-9])
        np.testing.assert_allclose(fused[row], [each / best for each in raw], rtol=1e-5)
