"""Bad input is told before a training begins: by its name, and with what to do."""

import numpy as np
import pyarrow as pa
import pytest

from models.catalogue import Catalogue, CatalogueConfig
from models.inputs import check_item_numbers, check_outcomes, check_user_level

HEADS = ("click", "hire")


def test_every_label_must_occur_in_every_split():
    both, clicks = np.asarray([1, 2, 3], np.uint8), np.asarray([1, 1], np.uint8)
    check_outcomes({"train": both, "validate": both}, HEADS)
    for split in ("train", "validate"):
        given = {"train": both, "validate": both, split: clicks}
        with pytest.raises(ValueError, match=f"names 'hire', which no request of .* {split!r} led"):
            check_outcomes(given, HEADS)
    with pytest.raises(ValueError, match="names 'click'"):
        check_outcomes({"train": np.zeros(0, np.uint8)}, HEADS)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_number_of_memory_that_is_none_is_told_by_feature_and_request(wrong):
    long = np.zeros((2000, 3), np.float32)
    check_user_level(long, ["known", "recency", "gap"])
    long[1234, 2] = long[1500] = wrong
    with pytest.raises(ValueError, match=r"in 'gap' of request 1,234 \(2 of 2,000 requests"):
        check_user_level(long, ["known", "recency", "gap"])


def catalogue(*prices):
    table = pa.table(
        {
            "item_id": [f"item-{number}" for number in range(len(prices))],
            "text": ["a thing"] * len(prices),
            "first_seen": pa.array([0] * len(prices), pa.timestamp("ms", tz="UTC")),
            "price": pa.array(prices, pa.float64()),
        }
    )
    return Catalogue(table, CatalogueConfig(numbers=("price",)))


def test_an_item_number_may_be_missing_but_not_infinite_nor_everywhere():
    check_item_numbers(catalogue(1.0, None, float("nan")))
    with pytest.raises(ValueError, match="'price' of 'item-1' is infinite"):
        check_item_numbers(catalogue(1.0, float("-inf")))
    with pytest.raises(ValueError, match="no item has the number 'price'"):
        check_item_numbers(catalogue(None, float("nan")))
