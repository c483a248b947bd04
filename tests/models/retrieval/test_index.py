"""Exact search against sorting, under every filter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.index import VectorIndex

seeds = st.integers(0, 2**32 - 1)


@st.composite
def searches(draw):
    """An index, queries and filters; whole numbers, so that scores tie and are exact."""
    generator = torch.Generator().manual_seed(draw(seeds))
    num_places, num_requests = draw(st.integers(1, 12)), draw(st.integers(0, 5))
    return {
        "vectors": torch.randint(-2, 3, (num_places, 3), generator=generator).float(),
        "queries": torch.randint(-2, 3, (num_requests, 3), generator=generator).float(),
        "allowed": draw(st.none() | st.just(torch.rand(num_places, generator=generator) < 0.6)),
        "known": draw(
            st.none()
            | st.just(torch.randint(0, num_places + 1, (num_requests,), generator=generator))
        ),
        "bonus": draw(
            st.none()
            | st.just(torch.randint(-3, 4, (num_requests, num_places), generator=generator).float())
        ),
        "count": draw(st.integers(0, 14)),
    }


def check(search):
    vectors, queries = search.pop("vectors"), search.pop("queries")
    places, scores = VectorIndex(vectors).search(queries, search.pop("count"), **search)
    allowed, known, bonus = search["allowed"], search["known"], search["bonus"]
    expected = queries @ vectors.T + (0 if bonus is None else bonus)
    for row, worth in enumerate(expected.tolist()):
        open_ = [
            place
            for place in range(1, len(vectors))
            if (allowed is None or allowed[place]) and (known is None or place < known[row])
        ]
        found = [place for place in places[row].tolist() if place]
        assert set(found) <= set(open_)
        assert len(set(found)) == len(found) == min(places.shape[1], len(open_))
        assert places[row].tolist() == found + [0] * (places.shape[1] - len(found))
        best = sorted((worth[place] for place in open_), reverse=True)
        assert scores[row, : len(found)].tolist() == best[: len(found)]
        assert [worth[place] for place in found] == best[: len(found)]
        assert (scores[row, len(found) :] == float("-inf")).all()
    return places


@settings(max_examples=150, deadline=None)
@given(searches())
def test_the_best_allowed_and_known_places_are_found_and_no_others(search):
    num, width = len(search["queries"]), min(search["count"], len(search["vectors"]))
    assert check(search).shape == (num, width)


def test_a_place_that_everybody_may_see_but_no_item_has_is_never_found():
    vectors = torch.tensor([[100.0], [-1.0], [-2.0]])
    places, scores = VectorIndex(vectors).search(torch.ones(1, 1), 3, allowed=torch.ones(3) > 0)
    assert places.tolist() == [[1, 2, 0]]
    assert scores.tolist() == [[-1.0, -2.0, float("-inf")]]
