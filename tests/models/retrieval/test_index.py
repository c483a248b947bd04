"""Exact search against sorting, under every filter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.index import VectorIndex, best

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
        "count": draw(st.integers(0, 14)),
    }


@settings(max_examples=150, deadline=None)
@given(searches())
def test_the_best_allowed_and_known_places_are_found_and_no_others(search):
    vectors, queries, count = (search.pop(name) for name in ("vectors", "queries", "count"))
    places, scores = VectorIndex(vectors).search(queries, count, **search)
    allowed, known = search["allowed"], search["known"]
    width = min(count, len(vectors))
    assert places.shape == scores.shape == (len(queries), width)
    for row, worth in enumerate((queries @ vectors.T).tolist()):
        open_ = [
            place
            for place in range(1, len(vectors))
            if (allowed is None or allowed[place]) and (known is None or place < known[row])
        ]
        found = [place for place in places[row].tolist() if place]
        assert set(found) <= set(open_)
        assert len(set(found)) == len(found) == min(width, len(open_))
        assert places[row].tolist() == found + [0] * (width - len(found))
        expected = sorted((worth[place] for place in open_), reverse=True)[: len(found)]
        assert scores[row, : len(found)].tolist() == expected
        assert [worth[place] for place in found] == expected
        assert (scores[row, len(found) :] == float("-inf")).all()


@settings(max_examples=50, deadline=None)
@given(searches())
def test_scores_are_left_as_they_were(search):
    index = VectorIndex(search["vectors"])
    scores = index.scores(search["queries"])
    assert torch.equal(scores, search["queries"] @ search["vectors"].T)
    before = scores.clone()
    options = {"allowed": search["allowed"], "known": search["known"]}
    found = best(scores, search["count"], **options)
    assert torch.equal(scores, before)
    again = index.search(search["queries"], search["count"], **options)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_a_place_that_everybody_may_see_but_no_item_has_is_never_found():
    vectors = torch.tensor([[100.0], [-1.0], [-2.0]])
    places, scores = VectorIndex(vectors).search(torch.ones(1, 1), 3, allowed=torch.ones(3) > 0)
    assert places.tolist() == [[1, 2, 0]]
    assert scores.tolist() == [[-1.0, -2.0, float("-inf")]]
