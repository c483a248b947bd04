"""Full-ranking metrics: hand-worked values, laws, and refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.retrieval import Positives, hits, mrr, ndcg_at, recall_at


def positives_of(*rows: list[int]) -> Positives:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Positives(np.array([i for row in rows for i in row], dtype=np.int64), offsets)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, Positives]:
    """Permutations of a small catalogue, some cut short and padded, with non-empty positives."""
    num_items = draw(st.integers(1, 8))
    catalogue = list(range(1, num_items + 1))
    tops, rows = [], []
    for _ in range(draw(st.integers(1, 5))):
        top = draw(st.permutations(catalogue))[: draw(st.integers(0, num_items))]
        tops.append(top + [-1] * (num_items - len(top)))
        rows.append(draw(st.lists(st.sampled_from(catalogue), min_size=1, unique=True)))
    return np.array(tops, dtype=np.int64), positives_of(*rows)


def test_worked_example() -> None:
    positives = positives_of([3, 9], [5], [1])
    found = hits(np.array([[7, 3, 9], [5, -1, -1], [2, 3, 5]]), positives)
    assert found.tolist() == [[False, True, True], [True, False, False], [False, False, False]]
    assert recall_at(found, positives.num, 2).tolist() == [0.5, 1.0, 0.0]
    assert mrr(found).tolist() == [0.5, 1.0, 0.0]
    ideal = 1 + 1 / np.log2(3)
    expected = [(1 / np.log2(3) + 1 / np.log2(4)) / ideal, 1.0, 0.0]
    np.testing.assert_allclose(ndcg_at(found, positives.num, 3), expected)


def test_recall_divides_by_all_the_positives() -> None:
    positives = positives_of([1, 2, 3, 4])
    assert recall_at(hits(np.array([[1, 2]]), positives), positives.num, 2).tolist() == [0.5]


@given(rankings())
def test_hits_agree_with_sets(world: tuple[np.ndarray, Positives]) -> None:
    top_items, positives = world
    sets = [
        set(positives.items[a:b].tolist())
        for a, b in zip(positives.offsets, positives.offsets[1:], strict=False)
    ]
    expected = [[item in own for item in row] for row, own in zip(top_items, sets, strict=True)]
    assert hits(top_items, positives).tolist() == expected


@given(rankings())
def test_metrics_stay_in_range_and_recall_never_falls(world: tuple[np.ndarray, Positives]) -> None:
    top_items, positives = world
    found = hits(top_items, positives)
    previous = np.zeros(len(found))
    for k in range(1, found.shape[1] + 1):
        recall, ndcg = recall_at(found, positives.num, k), ndcg_at(found, positives.num, k)
        assert np.all((ndcg >= 0) & (ndcg <= 1))
        assert np.all((previous <= recall) & (recall <= 1))
        assert np.array_equal(ndcg > 0, recall > 0)
        previous = recall
    assert np.array_equal(mrr(found) > 0, previous > 0)


@given(rankings())
def test_a_perfect_ranking_has_ndcg_of_one_at_every_k(world: tuple[np.ndarray, Positives]) -> None:
    top_items, positives = world
    perfect = np.arange(top_items.shape[1]) < positives.num[:, None]
    for k in range(1, top_items.shape[1] + 1):
        assert np.all(ndcg_at(perfect, positives.num, k) == 1.0)
    assert np.all(mrr(perfect) == 1.0)


def test_no_ranks_give_no_reciprocal_rank() -> None:
    assert mrr(np.zeros((2, 0), dtype=np.bool_)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("items", "offsets", "message"),
    [
        ([1], [0, 1, 1], "no positive"),
        ([1, 2], [0, 1], "number of items"),
        ([1, 1], [0, 2], "occurs twice"),
        ([-1], [0, 1], "negative"),
        ([1], [], "offsets"),
    ],
)
def test_malformed_positives_are_refused(
    items: list[int], offsets: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Positives(np.array(items, dtype=np.int64), np.array(offsets, dtype=np.int64))


def test_bad_rankings_and_cut_offs_are_refused() -> None:
    positives = positives_of([1])
    with pytest.raises(ValueError, match="holds an item twice"):
        hits(np.array([[1, 2, 1]]), positives)
    with pytest.raises(ValueError, match="one ranking"):
        hits(np.array([[1], [2]]), positives)
    found = hits(np.array([[1, 2]]), positives)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k}"):
            recall_at(found, positives.num, k)
    with pytest.raises(ValueError, match="without positives"):
        ndcg_at(found, np.array([0]), 1)
