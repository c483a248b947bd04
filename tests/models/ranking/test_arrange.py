"""Worth of candidates and the order of a slate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ranking.arrange import ArrangeConfig, mix, order, value

HEADS = ("click", "hire")
CHANCES = torch.tensor([[[0.5, 0.1], [0.2, 0.4]]])
scores_of = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
rows = st.lists(
    st.tuples(st.integers(1, 9), st.booleans(), scores_of),
    min_size=1,
    unique_by=lambda row: row[0],
).map(lambda found: [(place * real, score) for place, real, score in found])
"""`(place, score)` of candidates: places distinct, but for padding."""


def test_without_values_the_last_head_is_worth_one():
    torch.testing.assert_close(value(CHANCES, HEADS, ArrangeConfig()), CHANCES[..., 1])


def test_values_weigh_the_heads():
    worth = ArrangeConfig(values={"click": 2.0, "hire": -1.0})
    torch.testing.assert_close(value(CHANCES, HEADS, worth), torch.tensor([[0.9, 0.0]]))
    only = ArrangeConfig(values={"click": 3.0})
    torch.testing.assert_close(value(CHANCES, HEADS, only), torch.tensor([[1.5, 0.6]]))


def test_a_value_of_no_head_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['buy'\].*'click', 'hire'"):
        value(CHANCES, HEADS, ArrangeConfig(values={"buy": 1.0, "hire": 1.0}))


@settings(max_examples=100, deadline=None)
@given(rows)
def test_the_order_is_by_score_then_place_with_padding_last(candidates):
    places = torch.tensor([[place for place, _ in candidates]])
    scores = torch.tensor([[score for _, score in candidates]])
    found = order(scores, places)[0].tolist()
    assert sorted(found) == list(range(len(candidates)))
    real = [n for n in found if candidates[n][0]]
    assert real == sorted(real, key=lambda n: (-candidates[n][1], candidates[n][0]))
    assert found[: len(real)] == real, "padding comes last"


@settings(max_examples=50, deadline=None)
@given(candidates=rows, seed=st.integers(0, 999))
def test_the_slate_does_not_depend_on_the_order_of_the_candidates(candidates, seed):
    places = torch.tensor([[place for place, _ in candidates]])
    scores = torch.tensor([[score for _, score in candidates]])
    mixed = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    slate = places.gather(1, order(scores, places))
    other = places[:, mixed]
    assert torch.equal(slate, other.gather(1, order(scores[:, mixed], other)))


def test_requests_are_ordered_each_for_itself():
    scores, places = torch.tensor([[1.0, 2, 3], [3, 2, 1]]), torch.tensor([[4, 5, 6], [4, 0, 6]])
    assert order(scores, places).tolist() == [[2, 1, 0], [0, 2, 1]]
    assert order(scores.double(), places).tolist() == [[2, 1, 0], [0, 2, 1]]


values_and_relevance = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=8
)


@settings(max_examples=100, deadline=None)
@given(pairs=values_and_relevance, weight=st.sampled_from([0.0, 0.3, 1.0]))
def test_mixed_scores_lie_between_zero_and_one_and_grow_with_both(pairs, weight):
    values, relevance = torch.tensor([pairs]).unbind(2)
    config = ArrangeConfig(relevance_weight=weight)
    found = mix(values, relevance, config)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1 + 1e-6
    for one in range(len(pairs)):
        for other in range(len(pairs)):
            if values[0, one] >= values[0, other] and relevance[0, one] >= relevance[0, other]:
                assert found[0, one] >= found[0, other]


def test_the_ends_of_the_weight_are_value_alone_and_relevance_alone():
    values, relevance = torch.tensor([[0.1, 0.4]]), torch.tensor([[1.0, 0.25]])
    by_value = mix(values, relevance, ArrangeConfig(relevance_weight=0))
    torch.testing.assert_close(by_value, torch.tensor([[0.25, 1.0]]))
    by_words = mix(values, relevance, ArrangeConfig(relevance_weight=1))
    torch.testing.assert_close(by_words, relevance)
    assert mix(torch.zeros(1, 2), relevance, ArrangeConfig()).tolist() == [[0.5, 0.125]]
