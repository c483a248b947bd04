"""The order of an epoch: every row once, any order as likely, the same for every worker's run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shuffling import shares, shuffled


def of_worker(blocks, worker, num_workers):
    """Blocks are taken in turns."""
    return np.concatenate(blocks[worker::num_workers])


def order(rows, *, seed=1, batch=8, block=16, window=64):
    blocks = (rows[i : i + block] for i in range(0, len(rows), block))
    return list(shuffled(blocks, batch, np.random.default_rng(seed), window=window))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 300), st.integers(1, 5), st.integers(1, 400), st.integers(1, 70))
def test_shares_are_equal_distinct_and_leave_out_less_than_one_for_each(
    num, workers, window, block
):
    rows = np.arange(num) * 3
    blocks = shares(rows, workers, seed=1, window=window, block=block)
    found = [of_worker(blocks, worker, workers) for worker in range(workers)]
    assert {len(share) for share in found} == {num // workers}
    together = np.concatenate(found)
    assert len(set(together.tolist())) == len(together) > num - workers
    assert set(together.tolist()) <= set(rows.tolist())
    assert all(len(one) <= block for one in blocks)


def test_every_share_and_every_window_of_it_is_of_all_times():
    rows = np.arange(10_000)
    for window in (10_000, 1000):
        blocks = shares(rows, 2, seed=1, window=window, block=500)
        for worker in range(2):
            share = of_worker(blocks, worker, 2)
            assert abs(share.mean() - 4999.5) < 150
            if window < len(share):
                firsts = [share[i : i + window].mean() for i in range(0, len(share), window)]
                assert max(firsts) - min(firsts) < 1000
    assert of_worker(shares(rows, 1, seed=1), 0, 1).tolist() == rows.tolist()


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

    def blocks():
        for number in range(100):
            read.append(number)
            yield np.arange(10) + 10 * number

    batches = shuffled(blocks(), 5, np.random.default_rng(0), window=50)
    first = [next(batches) for _ in range(9)]
    assert len(read) == 5
    assert max(map(max, first)) < 50
