"""Threads: every request is in one, sees what its ring holds, and is read as a live request is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.memory import Histories
from models.threads import memories_of, packed, threads_of
from tests.models.small import MODEL, planted, towers

EXAMPLES = planted().examples
ALL = np.arange(len(EXAMPLES.requests))
SPEC = MODEL.memory.state


def made(examples=EXAMPLES, *, length, rows=ALL):
    return threads_of(
        examples.requests, rows, histories=examples.histories, spec=SPEC, length=length
    )


def disordered():
    """The planted world, where some events of every third user arrived days after they happened."""
    histories, arrived = EXAMPLES.histories, EXAMPLES.histories.arrived.copy()
    owner = np.repeat(np.arange(len(histories.users)), np.diff(histories.offsets))
    late = (owner % 3 == 0) & (np.arange(len(arrived)) % 5 == 0)
    arrived[late] += 9 * 86_400_000
    return _with(Histories(histories.users, histories.offsets, histories.interactions, arrived))


def _with(histories):
    return type(EXAMPLES)(
        EXAMPLES.requests,
        histories=histories,
        catalogue=EXAMPLES.catalogue,
        features=EXAMPLES.features,
        memory=EXAMPLES.memory,
    )


@pytest.mark.parametrize("examples", [EXAMPLES, disordered()], ids=["in order", "disordered"])
@pytest.mark.parametrize("length", [1, 3, 8, 100])
def test_every_request_lies_in_one_thread_and_sees_the_end_of_its_ring(examples, length):
    threads = made(examples, length=length)
    assert sorted(threads.requests.tolist()) == ALL.tolist()
    histories, requests = examples.histories, examples.requests
    rings = histories.ring_rows(requests.user, requests.as_of_ms, SPEC, length)
    for thread in range(len(threads)):
        _, tokens = threads.tokens_of(np.asarray([thread]))
        assert len(tokens) <= min(length, SPEC.ring)
        for row, seen in zip(*threads.requests_of(np.asarray([thread]))[1:], strict=True):
            ring = rings[row][rings[row] >= 0]
            assert min(len(ring), -(-min(length, SPEC.ring) // 2)) <= seen <= len(ring)
            assert tokens[:seen].tolist() == ring[len(ring) - seen :].tolist()


def test_threads_are_few_where_requests_share_a_window():
    users = len(np.unique(EXAMPLES.requests.user))
    assert users <= len(made(length=100)) <= len(ALL) / 2
    assert len(made(length=100).tokens) <= len(ALL) * SPEC.ring / 2


def test_a_request_of_nobody_has_a_thread_without_tokens():
    requests = replace(EXAMPLES.requests, user=np.full(len(ALL), -1))
    threads = threads_of(requests, ALL[:3], histories=EXAMPLES.histories, spec=SPEC, length=8)
    assert len(threads) == 3
    assert not len(threads.tokens)
    assert not threads.seen.any()


@pytest.mark.parametrize("examples", [EXAMPLES, disordered()], ids=["in order", "disordered"])
@pytest.mark.parametrize("levels", [(True, True, True), (False, True, True), (True, False, False)])
def test_a_request_reads_in_its_thread_what_it_reads_alone(examples, levels):
    net = towers(blocks=2).eval()
    threads = made(examples, length=examples.features.history)
    chosen = np.random.default_rng(0).permutation(len(threads))
    _, rows, seen = threads.requests_of(chosen)
    keep = torch.tensor(levels).expand(len(rows), 3)
    memories, cells = memories_of(examples, threads, chosen, keep)
    # Of a longer history a window holds the end only, from which another state begins.
    whole = np.asarray([len(r[r >= 0]) for r in _rings(examples, rows)]) == seen
    assert whole.sum() > len(rows) / 2
    with torch.no_grad():
        vectors = net.read(memories)[0].flatten(0, 1)[cells]
        alone = net.user_query(examples.user_side(rows).keep(keep))
    assert torch.allclose(vectors[whole], alone.vector[whole], atol=1e-5)
    assert len(torch.unique(vectors, dim=0)) > len(rows) / 2, "or this would show nothing"


def _rings(examples, rows):
    requests = examples.requests
    num = examples.features.history
    return examples.histories.ring_rows(requests.user[rows], requests.as_of_ms[rows], SPEC, num)


def test_pulls_are_those_of_the_interactions_seen():
    net = towers().eval()
    threads = made(length=EXAMPLES.features.history)
    chosen = np.arange(len(threads))
    rows = threads.requests_of(chosen)[1]
    keep = torch.ones(len(rows), 3, dtype=torch.bool)
    memories, cells = memories_of(EXAMPLES, threads, chosen, keep)
    with torch.no_grad():
        pulls = net.read(memories)[1].flatten(0, 1)[cells]
        alone = net.user_query(EXAMPLES.user_side(rows))
    assert torch.allclose(pulls.sum(1), alone.pull.sum(1), atol=1e-5)


sizes = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=1, max_size=40)


@settings(max_examples=200)
@given(sizes, st.integers(4, 12))
def test_packing_lays_threads_side_by_side_without_overlap(given_sizes, limit):
    lengths, heights = np.asarray(given_sizes).T
    row, token, request = packed(lengths, heights, length=limit, height=limit)
    for size, first in ((lengths, token), (heights, request)):
        for number in np.unique(row):
            inside = np.flatnonzero(row == number)
            spans = [set(range(first[t], first[t] + size[t])) for t in inside]
            assert sum(map(len, spans)) == len(set().union(*spans))
            assert len(inside) == 1 or max(set().union(*spans), default=-1) < limit
    assert set(row.tolist()) == set(range(row.max() + 1)), "no row is left empty"
