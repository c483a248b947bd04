"""Places, fields and filters against loops over the rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalogue import Catalogue, CatalogueConfig
from models.events import key64

CONFIG = CatalogueConfig(categories=("kind", "maker"), numbers=("price",), num_interests=16)
KINDS = ["mug", "lamp", None, "mug", "", "clock"]
PRICES = [3.0, -2.5, None, float("nan"), 0.0, 1000.0]
ROWS = [
    {
        "item_id": f"i{number}",
        "text": None if number == 1 else f"text {number}",
        "kind": kind,
        "maker": "x" if number % 2 else "y",
        "price": price,
        "first_seen": 1000 + number,
    }
    for number, (kind, price) in enumerate(zip(KINDS, PRICES, strict=True))
]


def table(rows):
    names = ["item_id", "text", "kind", "maker"]
    return pa.table(
        {
            **{name: pa.array([row[name] for row in rows], pa.string()) for name in names},
            "price": pa.array([row["price"] for row in rows], pa.float64()),
            "first_seen": pa.array([row["first_seen"] for row in rows], pa.timestamp("ms", "UTC")),
        }
    )


CATALOGUE = Catalogue(table(ROWS), CONFIG)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=6, max_size=6))
def test_places_of_any_shape_and_zero_for_the_unknown(numbers):
    ids = [f"i{number}" for number in numbers]
    keys = np.asarray([key64(item) for item in ids], np.uint64)
    expected = [number + 1 if number < len(ROWS) else 0 for number in numbers]
    for shape in [(6,), (2, 3), (1, 3, 2)]:
        found = CATALOGUE.places(keys.reshape(shape))
        assert found.shape == shape
        assert found.ravel().tolist() == expected
    assert CATALOGUE.places(keys[:0]).shape == (0,)
    assert [CATALOGUE.place_of(item) for item in ids] == expected


def test_no_item_and_extreme_keys_have_no_place():
    assert CATALOGUE.places(np.asarray([0, 1, 2**64 - 1], np.uint64)).tolist() == [0, 0, 0]
    assert CATALOGUE.places(CATALOGUE.keys).tolist() == list(range(len(ROWS) + 1))
    assert len(CATALOGUE) == len(ROWS) + 1


def test_place_zero_is_no_item():
    assert CATALOGUE.texts == ["", "text 0", "", *(f"text {n}" for n in range(2, 6))]
    assert CATALOGUE.first_seen_ms.tolist() == [2**63 - 1, *(1000 + n for n in range(6))]
    assert not CATALOGUE.categories[0].any()
    assert not CATALOGUE.numbers[0].any()


def test_category_codes_name_their_values():
    for field, name in enumerate(CONFIG.categories):
        values = CATALOGUE.category_values[name]
        codes = CATALOGUE.categories[1:, field]
        assert [values[code] for code in codes] == [row[name] or "" for row in ROWS]
        assert values == ["", *sorted(values[1:])]


def test_numbers_are_signed_logarithms_and_what_is_missing_is_zero():
    expected = [np.log(4), -np.log(3.5), 0, 0, 0, np.log(1001)]
    np.testing.assert_allclose(CATALOGUE.numbers[1:, 0], expected, rtol=1e-6)


bounds = st.one_of(st.none(), st.sampled_from([-2.5, 0.0, 0.5, 3.0, 2000.0]))


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.none() | st.lists(st.sampled_from(["mug", "lamp", "clock", "unheard of"])),
    makers=st.none() | st.lists(st.sampled_from(["x", "y"])),
    low=bounds,
    high=bounds,
    ranged=st.booleans(),
)
def test_filters_let_through_what_a_loop_would(kinds, makers, low, high, ranged):
    equal = {"kind": kinds, "maker": makers}
    equal = {name: values for name, values in equal.items() if values is not None}
    mask = CATALOGUE.allowed(equal=equal, between={"price": (low, high)} if ranged else None)

    def passes(row):
        price = row["price"]
        inside = price is not None and price == price
        inside = inside and (low is None or price >= low) and (high is None or price <= high)
        return all(row[n] in v for n, v in equal.items()) and (inside or not ranged)

    assert mask.tolist() == [False, *map(passes, ROWS)]


def test_no_filter_lets_all_items_through():
    assert CATALOGUE.allowed().tolist() == [False] + [True] * len(ROWS)


@pytest.mark.parametrize(
    "filters",
    [{"equal": {"price": ["3"]}}, {"equal": {"colour": ["red"]}}, {"between": {"kind": (0, 1)}}],
)
def test_a_field_that_is_no_filter_is_refused_by_name(filters):
    name = next(iter(next(iter(filters.values()))))
    with pytest.raises(ValueError, match=f"'{name}' is none of the fields (kind, maker|price)"):
        CATALOGUE.allowed(**filters)


def test_an_item_twice_or_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="distinct"):
        Catalogue(table([*ROWS, ROWS[2]]), CONFIG)
    with pytest.raises(ValueError, match="maker"):
        Catalogue(table(ROWS).drop_columns("maker"), CONFIG)


def test_interests_follow_the_first_category_alone():
    found = CATALOGUE.interests(CATALOGUE.keys)
    mug = 1 + key64("mug") % 15
    assert found[[1, 4]].tolist() == [mug, mug]
    assert found[[0, 3, 5]].tolist() == [0, 0, 0], "no category, or the empty one, is unknown"
    assert found.max() < CONFIG.num_interests
    assert found.dtype == np.uint16
    assert CATALOGUE.interests(np.asarray([[12345]], np.uint64)).tolist() == [[0]]


def test_interests_do_not_depend_on_the_other_items():
    """States hold interest buckets: a larger catalogue must not move them."""
    fewer = Catalogue(table(ROWS[::-2]), CONFIG)
    keys = fewer.keys
    assert fewer.interests(keys).tolist() == CATALOGUE.interests(keys).tolist()
    assert fewer.interests(keys).any()


def test_without_fields_there_are_no_columns():
    plain = Catalogue(table(ROWS), CatalogueConfig())
    assert plain.categories.shape == (7, 0)
    assert plain.numbers.shape == (7, 0)
    assert not plain.interests(plain.keys).any()


def test_what_is_saved_is_loaded(tmp_path):
    CATALOGUE.save(tmp_path / "catalogue.parquet")
    loaded = Catalogue.load(tmp_path / "catalogue.parquet", CONFIG)
    assert loaded.item_ids == CATALOGUE.item_ids
    assert loaded.texts == CATALOGUE.texts
    for name in ("keys", "categories", "numbers", "first_seen_ms"):
        assert getattr(loaded, name).tolist() == getattr(CATALOGUE, name).tolist()
