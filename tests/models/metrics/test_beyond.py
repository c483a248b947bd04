"""Novelty, coverage and diversity on lists made by hand, and against a loop over pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import beyond


def test_what_all_know_says_little():
    information = beyond.self_information(np.asarray([0, 7, 1, 0]))
    assert information.tolist() == pytest.approx([0.0, *(-np.log2(np.asarray([8, 2, 1]) / 11))])
    found = beyond.novelty(np.asarray([[1, 0], [3, 2], [0, 0]]), information)
    assert found.tolist() == pytest.approx(
        [information[1], (information[2] + information[3]) / 2, 0.0]
    )


def test_coverage_counts_an_item_once_and_no_padding():
    assert beyond.coverage(np.asarray([[1, 2], [2, 0]]), 5) == 0.5
    assert beyond.coverage(np.zeros((2, 3), np.int64), 5) == 0


@given(st.lists(st.permutations(range(1, 7)), min_size=1, max_size=5), st.integers(0, 4))
def test_diversity_is_the_mean_distance_of_pairs(rows, num):
    top = np.asarray(rows)[:, :4]
    top[:, num:] = 0
    vectors = np.random.default_rng(len(rows)).normal(size=(7, 3)).astype("f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = beyond.diversity(top, vectors)
    for row, value in zip(top, found, strict=True):
        pairs = itertools.combinations(row[row > 0], 2)
        apart = [1 - float(vectors[a] @ vectors[b]) for a, b in pairs]
        assert value == pytest.approx(np.mean(apart) if apart else 0.0, abs=1e-6)


def test_a_list_of_one_category_is_not_diverse():
    kinds = np.eye(3, dtype="f4")[[0, 1, 1, 2]]
    found = beyond.diversity(np.asarray([[1, 2], [1, 3]]), kinds)
    assert found.tolist() == [0.0, 1.0]
