"""Words and hashed grams."""

import unicodedata
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.text import MAX_WORDS, grams, hashed, words

TEXTS = ["", "red mug", "Crème", "a b", "---", "set of 6 T-lights"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Crème-brûlée SET/6, T-Light", ["creme", "brulee", "set", "6", "t", "light"]),
        ("snake_case and_more", ["snake", "case", "and", "more"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("１２ ﬁne ½", ["12", "fine", "1", "2"]),
        ("日本 Ελλάδα", ["日本", "ελλαδα"]),
        ("-- !?\n\t", []),
    ],
)
def test_words_are_lower_case_without_accents_and_punctuation(text, expected):
    assert words(text) == expected


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_words_are_their_own_words(text):
    found = words(text)
    assert words(" ".join(found)) == found
    assert all(word and not any(c.isspace() or c == "_" for c in word) for word in found)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(max_codepoint=0x24F)))
def test_composed_and_decomposed_texts_have_the_same_words(text):
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


def test_a_long_text_is_cut_to_its_first_words():
    assert words(" ".join(map(str, range(100)))) == [str(n) for n in range(MAX_WORDS)]
    assert len(words("x" * 10_000)[0]) == 4096


def test_grams_are_words_then_pairs_then_trigrams():
    assert grams("Ab cd a") == [
        *("ab", "cd", "a"),
        *("ab cd", "cd a"),
        *("#<ab", "#ab>", "#<cd", "#cd>", "#<a>"),
    ]


@pytest.mark.parametrize("buckets", [2, 3, 97, 1 << 14])
def test_every_gram_has_its_bucket_and_none_the_padding(buckets):
    found = hashed("red mug of the old town", buckets)
    expected = [
        1 + zlib.crc32(gram.encode()) % (buckets - 1) for gram in grams("red mug of the old town")
    ]
    assert found.tolist() == expected
    assert found.min() >= 1
    assert found.max() < buckets


def test_buckets_stay_what_they_are_in_every_release():
    """Weights of a text table rest on these numbers."""
    assert hashed("red mug", 1 << 14)[:3].tolist() == [2341, 13169, 11768]


def test_words_in_common_are_buckets_in_common():
    one, other = set(hashed("red mug", 4096)), set(hashed("MUG, blue", 4096))
    assert set(hashed("mug", 4096)) <= one & other
    assert not set(hashed("mug", 4096)) & set(hashed("lamp", 4096))
