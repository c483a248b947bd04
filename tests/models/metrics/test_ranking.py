"""Candidate-list metrics against scikit-learn, ties included, and their laws."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from models.metrics.ranking import auc, calibration_error, gauc, grouped_ndcg, log_loss

# Few distinct scores, so that most examples hold ties.
CANDIDATES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=40
)
Rows = list[tuple[int, int, int]]


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores, groups = np.array(rows).T
    return labels, scores / 7.0, groups


@given(CANDIDATES)
def test_auc_equals_sklearn(rows: Rows) -> None:
    labels, scores, _ = columns(rows)
    assume(0 < labels.sum() < len(labels))
    assert auc(labels, scores) == pytest.approx(oracle.roc_auc_score(labels, scores))


@given(CANDIDATES)
def test_gauc_is_the_weighted_mean_of_the_groups(rows: Rows) -> None:
    labels, scores, groups = columns(rows)
    parts = [groups == g for g in np.unique(groups) if 0 < labels[groups == g].mean() < 1]
    assume(parts)
    values = [oracle.roc_auc_score(labels[part], scores[part]) for part in parts]
    expected = np.average(values, weights=[part.sum() for part in parts])
    assert gauc(labels, scores, groups) == pytest.approx(expected)


@given(CANDIDATES, st.integers(1, 8))
def test_grouped_ndcg_equals_sklearn(rows: Rows, k: int) -> None:
    labels, scores, groups = columns(rows)
    values = []
    for group in np.unique(groups[labels == 1]):
        part = groups == group
        # scikit-learn refuses a single candidate; one positive alone is ranked perfectly.
        one = part.sum() == 1
        values.append(1.0 if one else oracle.ndcg_score([labels[part]], [scores[part]], k=k))
    assume(values)
    assert grouped_ndcg(labels, scores, groups, k) == pytest.approx(np.mean(values))


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: Rows, random: Random) -> None:
    labels, scores, groups = columns(rows)
    assume(any(0 < labels[groups == g].mean() < 1 for g in groups))
    shuffled = list(rows)
    random.shuffle(shuffled)
    again, moved, regrouped = columns(shuffled)
    assert gauc(labels, scores, groups) == pytest.approx(gauc(again, moved, regrouped))
    assert grouped_ndcg(labels, scores, groups, 3) == pytest.approx(
        grouped_ndcg(again, moved, regrouped, 3)
    )
    assert calibration_error(labels, (scores + 1) / 2, 4) == pytest.approx(
        calibration_error(again, (moved + 1) / 2, 4)
    )


def test_a_constant_score_knows_nothing() -> None:
    assert auc([1, 0, 0, 1, 0], np.zeros(5)) == 0.5
    assert gauc([1, 0, 0, 1, 0], np.zeros(5), [1, 1, 2, 2, 2]) == 0.5


def test_groups_may_be_names_and_scores_infinite() -> None:
    assert gauc([1, 0, 1, 0], [np.inf, 0, -np.inf, 0], ["a", "a", "b", "b"]) == 0.5


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_log_loss_equals_sklearn(rows: list[tuple[int, float]]) -> None:
    labels, chances = np.array(rows).T
    expected = oracle.log_loss(labels, chances, labels=[0, 1])
    assert log_loss(labels, chances) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_worked_bins() -> None:
    labels = [0, 0, 1, 0, 1, 1]
    chances = [0.1, 0.2, 0.3, 0.6, 0.8, 0.9]
    # Three bins of two: |0 - 0.15|, |0.5 - 0.45|, |1 - 0.85|.
    assert calibration_error(labels, chances, bins=3) == pytest.approx((0.15 + 0.05 + 0.15) / 3)
    assert calibration_error(labels, chances, bins=1) == pytest.approx(abs(0.5 - 2.9 / 6))


def test_equal_probabilities_share_a_bin() -> None:
    labels = [0] * 30 + [1] * 10  # in order: cutting the tie into bins would invent an error
    assert calibration_error(labels, np.full(40, 0.25)) == pytest.approx(0.0)
    assert calibration_error(labels, np.full(40, 0.5)) == pytest.approx(0.25)


def test_calibration_error_sees_overconfidence() -> None:
    rng = np.random.default_rng(0)
    chances = rng.beta(1, 9, size=20_000)
    labels = rng.random(20_000) < chances
    assert calibration_error(labels, chances) < 0.01
    assert calibration_error(labels, np.sqrt(chances)) > 0.1


@given(CANDIDATES, st.integers(1, 20))
def test_calibration_error_lies_between_the_overall_gap_and_one(rows: Rows, bins: int) -> None:
    labels, scores, _ = columns(rows)
    chances = (scores + 1) / 2
    error = calibration_error(labels, chances, bins)
    assert abs(labels.mean() - chances.mean()) - 1e-12 <= error <= 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one class"):
        auc([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="no group has both"):
        gauc([1, 0], [0.1, 0.2], [1, 2])
    with pytest.raises(ValueError, match="no group has a positive"):
        grouped_ndcg([0, 0], [0.1, 0.2], [1, 2], 3)
    with pytest.raises(ValueError, match="k=0"):
        grouped_ndcg([1, 0], [0.1, 0.2], [1, 1], 0)
    with pytest.raises(ValueError, match="groups have shape"):
        gauc([1, 0], [0.1, 0.2], [1])
    with pytest.raises(ValueError, match="0 or 1"):
        auc([2, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN"):
        auc([1, 0], [np.nan, 0.2])
    with pytest.raises(ValueError, match="not empty"):
        log_loss([], [])
    for metric in (log_loss, calibration_error):
        with pytest.raises(ValueError, match="outside"):
            metric([1, 0], [1.5, 0.2])
    with pytest.raises(ValueError, match="bins=0"):
        calibration_error([1, 0], [0.5, 0.2], bins=0)
