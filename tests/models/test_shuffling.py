"""The order of an epoch: every row once, any order as likely, whoever takes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shuffling import blocks, shuffled


def order(rows, *, seed=1, batch=8, block=16, window=64):
    given = (rows[i : i + block] for i in range(0, len(rows), block))
    return list(shuffled(given, batch, np.random.default_rng(seed), window=window))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 300), st.integers(1, 400), st.integers(1, 70))
def test_blocks_hold_every_unit_once(num, window, block):
    units = np.arange(num) * 3
    found = blocks(units, seed=1, window=window, block=block)
    together = np.concatenate(found)
    assert sorted(together.tolist()) == units.tolist()
    assert (together.tolist() == units.tolist()) or num > window
    assert all(len(one) <= block for one in found)


def test_every_window_of_more_than_one_is_of_all_times():
    units = np.arange(10_000)
    together = np.concatenate(blocks(units, seed=1, window=1000, block=500))
    means = [together[i : i + 1000].mean() for i in range(0, 10_000, 1000)]
    assert max(means) - min(means) < 1000
    assert np.array_equal(together, np.concatenate(blocks(units, seed=1, window=1000)))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 400),
    st.integers(1, 50),
    st.integers(1, 90),
    st.integers(1, 500),
)
def test_every_row_comes_once_in_full_batches(num, batch, block, window):
    found = order(np.arange(num), batch=batch, block=block, window=window)
    assert sorted(np.concatenate([*found, np.zeros(0, int)]).tolist()) == list(range(num))
    assert [len(one) for one in found[:-1]] == [batch] * (len(found) - 1)
    assert all(0 < len(one) <= batch for one in found)


@pytest.mark.parametrize("window", [64, 1000], ids=["windows", "whole"])
def test_the_order_is_that_of_the_generator(window):
    rows = np.arange(500)
    one, same, other = (order(rows, seed=seed, window=window) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, same))
    assert not np.array_equal(one[0], other[0])


def test_within_the_window_any_order_is_as_likely():
    firsts = [int(order(np.arange(60), seed=seed)[0][0]) for seed in range(6000)]
    counts = np.bincount(firsts, minlength=60)
    np.testing.assert_allclose(counts, 100, atol=50)


def test_a_window_is_handed_out_before_the_next_is_read():
    read = []

    def endless():
        for number in range(100):
            read.append(number)
            yield np.arange(10) + 10 * number

    batches = shuffled(endless(), 5, np.random.default_rng(0), window=50)
    first = [next(batches) for _ in range(9)]
    assert len(read) == 5
    assert max(map(max, first)) < 50
