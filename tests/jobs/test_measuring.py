"""What is measured of a document, and what is said where there is nothing to measure."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from configs.load import load
from jobs import measuring
from jobs.telling import ages_of, tasks_of
from models.retrieval import als
from tests.jobs import retail
from tests.models.small import planted

CONFIGS = Path(retail.CONFIG).parent
TIMED, LEFT_OUT = load(CONFIGS / "online_retail.yaml"), load(CONFIGS / "amazon_beauty.yaml")


def test_what_needs_a_common_time_is_not_offered_without_one():
    assert measuring.baselines_of(TIMED)[:4] == (
        "popularity",
        "popularity, last 7d",
        "own frequency",
        "item to item",
    )
    assert measuring.baselines_of(LEFT_OUT)[:2] == ("popularity", "item to item")
    assert len(ages_of(TIMED)) == 4
    assert ages_of(LEFT_OUT) == ()
    assert ("reading", "14d old") in tasks_of(TIMED)
    assert not [name for _, name in tasks_of(LEFT_OUT) if "old" in name]


def test_als_is_there_where_its_library_is():
    assert (measuring.ALS in measuring.baselines_of(TIMED)) == als.is_there()


def test_baselines_drop_what_retrieval_drops_unless_told():
    assert measuring.drops_seen(LEFT_OUT)
    assert not measuring.drops_seen(TIMED)
    told = TIMED.evaluate.model_copy(update={"drop_seen": True})
    assert measuring.drops_seen(TIMED.model_copy(update={"evaluate": told}))


def test_a_list_ends_where_nothing_may_be_found():
    block = np.asarray([[-np.inf, 1, 3, 2], [-np.inf, -np.inf, 5, -np.inf]], np.float32)
    assert measuring._best(block, 3).tolist() == [[2, 3, 1], [2, 0, 0]]


@pytest.mark.parametrize(
    ("num", "said"),
    [
        (0, "requests: none is in test; move the times of the splits"),
        (7, "none of the 7 requests of test has a 'purchase' .* view: 384, purchase: 384"),
    ],
)
def test_an_empty_split_says_what_there_is(num: int, said: str):
    assert re.search(said, measuring._nothing_to_find(planted().examples, TIMED, "test", num))


def test_item_memory_has_no_time_where_requests_have_none():
    features = LEFT_OUT.model.features
    assert features.popularity_half_lives == (features.popularity_step,)
    assert TIMED.model.features.popularity_half_lives == TIMED.features.popularity_half_lives
