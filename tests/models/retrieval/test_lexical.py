"""BM25 over texts: words match, syntax does not, filters lose nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.lexical import LexicalIndex
from models.text import words

WORDS = ["red", "mug", "lamp", "crème", "6"]
TEXTS = [
    "",
    "red mug",
    "Red LAMP, red lamp",
    "a crème mug",
    "set of 6 mugs in red and blue and white and green",
    "",
    "mug",
    "lamp",
    "mug",
    "or and not",
]
INDEX = LexicalIndex(TEXTS)


def matching(query):
    return {p for p, text in enumerate(TEXTS) if p and set(words(text)) & set(words(query))}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=4).map(" ".join))
def test_exactly_the_texts_that_share_a_word_are_found(query):
    found = INDEX.search(query, 50).tolist()
    assert set(found) == matching(query)
    assert len(set(found)) == len(found)


def test_more_and_rarer_words_and_shorter_texts_come_first():
    assert INDEX.search("red mug", 50)[0] == 1
    assert INDEX.search("creme mug", 50)[0] == 3
    assert INDEX.search("red", 50).tolist() == [2, 1, 4]
    assert INDEX.search("mug", 50).tolist() == [6, 8, 1, 3], "equal scores by place"


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ("-red", "red"),
        ('"red lamp', "red lamp"),
        ("text:red", "text red"),
        ("place:3", "place 3"),
        ("red AND (mug OR", "red and mug or"),
        ("+red^5 mug~2", "red 5 mug 2"),
        ("re* [a TO z] {", "re a to z"),
        ("NOT red \\ /", "not red"),
        ("CRÈME", "creme"),
    ],
)
def test_a_query_is_words_and_never_syntax(query, plain):
    assert INDEX.search(query, 50).tolist() == INDEX.search(plain, 50).tolist()


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_no_text_breaks_a_search(query):
    assert set(INDEX.search(query, 50).tolist()) == matching(query)


@pytest.mark.parametrize("query", ["", "***", "\0", "unheard"])
def test_nothing_is_found_for_no_known_word(query):
    assert INDEX.search(query, 5).tolist() == []


@settings(max_examples=60, deadline=None)
@given(
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join),
    mask=st.lists(st.booleans(), min_size=len(TEXTS), max_size=len(TEXTS)),
    count=st.integers(0, 6),
)
def test_a_filter_loses_nothing_and_keeps_the_order(query, mask, count):
    allowed = np.asarray(mask)
    whole = INDEX.search(query, 50)
    expected = whole[allowed[whole]][:count]
    assert INDEX.search(query, count, allowed=allowed).tolist() == expected.tolist()
    assert INDEX.search(query, count).tolist() == whole[:count].tolist()


def test_two_indexes_of_the_same_texts_agree():
    texts = ["", *(f"{w} {v}" for w in WORDS for v in WORDS for _ in range(3))]
    one, other = LexicalIndex(texts), LexicalIndex(texts)
    for query in ("red", "mug 6", "lamp red creme"):
        assert one.search(query, 20).tolist() == other.search(query, 20).tolist()
        assert one.search(query, 20).tolist() == one.search(query, 20).tolist()


def test_an_empty_catalogue_finds_nothing():
    assert LexicalIndex([""]).search("red", 5).tolist() == []
    assert LexicalIndex([""]).search("red", 5, allowed=np.asarray([False])).tolist() == []
