"""Keys of whole columns are those of single texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from models.events import key64, keys64
from models.keys import keys_of

TEXTS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=50)


@given(TEXTS)
def test_a_column_has_the_keys_of_its_texts(texts):
    column = pa.array(texts, pa.string())
    expected = [0 if text is None else key64(text) for text in texts]
    assert keys_of(column).tolist() == expected
    assert keys64(column).tolist() == expected


def test_many_texts_have_the_keys_of_few():
    texts = [f"text {n % 700} of {'x' * (n % 300)}" for n in range(5_000)] + [None, ""]
    column = pa.chunked_array([texts[:2000], texts[2000:]], pa.string())
    expected = np.asarray([0 if text is None else key64(text) for text in texts], np.uint64)
    assert (keys_of(column) == expected).all()
    assert (keys64(column) == expected).all()


def test_the_hash_is_that_of_the_specification():
    # XXH3_64bits without a seed, from the reference implementation (xxhash 0.8).
    assert key64("") == 0x2D06800538D394C2
    assert key64("a") == 0xE6C632B61E964E1F
    assert key64("abc") == 0x78AF5F94892F3950
