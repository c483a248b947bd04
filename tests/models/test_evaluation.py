"""Lists and their metrics on cases made by hand, and scoring of given candidates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import evaluation
from models.evaluation import Scored
from models.metrics import retrieval
from models.ranking.calibration import Platt
from models.retrieval.retrieve import Retriever
from tests.models.small import MODEL, planted, trainer

SMALL = planted()
EXAMPLES = SMALL.examples
TRAINER = trainer(SMALL)
RETRIEVER = TRAINER.retriever()
RECOMMENDER = TRAINER.recommender(RETRIEVER)
VIEW, PURCHASE = 0, 1
ROWS = SMALL.rows("validate")[:5]


def test_positives_are_outcomes_of_the_target_head():
    wanted = evaluation.positives(EXAMPLES.requests, ROWS, PURCHASE)
    for number, row in enumerate(ROWS):
        items = wanted.items[wanted.offsets[number] : wanted.offsets[number + 1]].tolist()
        which, places, bits = EXAMPLES.requests.pairs(np.asarray([row]))
        assert items == places[(bits & 2) > 0].tolist()
        assert len(items) == 2 < len(which) + 1


def only_views(rows):
    """The requests with the purchases of some taken away."""
    requests = SMALL.examples.requests
    labels = requests.labels.copy()
    for row in rows:
        labels[requests.offsets[row] : requests.offsets[row + 1]] = 1
    return type(requests)(**{**vars(requests), "labels": labels})


def test_requests_without_the_target_are_left_out_and_refused():
    requests = only_views(ROWS[[1, 3]])
    assert evaluation.with_target(requests, ROWS, PURCHASE).tolist() == ROWS[[0, 2, 4]].tolist()
    assert evaluation.with_target(requests, ROWS, VIEW).tolist() == ROWS.tolist()
    assert evaluation.with_target(requests, ROWS[[3]], PURCHASE).tolist() == []
    with pytest.raises(ValueError, match="2 requests have no positive"):
        evaluation.positives(requests, ROWS, PURCHASE)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=20),
    at_most=st.integers(5, 60),
    seed=st.integers(0, 3),
)
def test_a_part_of_the_requests_is_that_of_whole_users(lengths, at_most, seed):
    user = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(lengths)), lengths))
    requests = replace(EXAMPLES.requests, user=np.append(user, 99))
    rows = np.arange(len(user))
    found = evaluation.of_some_users(requests, rows, at_most=at_most, seed=seed)
    assert 0 < len(found) <= at_most
    drawn = np.isin(user, user[found])
    assert found.tolist() == rows[drawn].tolist()
    # As many as there is room for: nobody has more than five.
    assert len(found) > at_most - 5 or len(found) == len(rows)
    same = evaluation.of_some_users(requests, rows, at_most=at_most, seed=seed)
    assert found.tolist() == same.tolist()


def test_all_requests_are_measured_where_there_is_no_bound_or_they_fit():
    for at_most in (None, len(ROWS)):
        found = evaluation.of_some_users(EXAMPLES.requests, ROWS, at_most=at_most, seed=1)
        assert found.tolist() == ROWS.tolist()


def test_another_seed_draws_other_users():
    requests = replace(EXAMPLES.requests, user=np.arange(100))
    rows = np.arange(100)
    draws = [evaluation.of_some_users(requests, rows, at_most=10, seed=s).tolist() for s in (1, 2)]
    assert draws[0] != draws[1]


def test_a_bound_below_one_users_requests_says_what_to_do():
    requests = replace(EXAMPLES.requests, user=np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"max_requests=3: .* has 4 requests; allow more"):
        evaluation.of_some_users(requests, np.arange(4), at_most=3, seed=1)


def test_list_metrics_of_known_lists():
    top = np.zeros((3, 60), np.int64)
    top[0] = np.arange(1, 61)
    top[1, :3] = [7, 8, 9]
    top[2, 0] = 5
    wanted = retrieval.Positives(np.asarray([1, 15, 60, 8, 6]), np.asarray([0, 3, 4, 5]))
    found = evaluation.list_metrics(top, wanted)
    np.testing.assert_allclose(found["recall@10"], [1 / 3, 1, 0])
    np.testing.assert_allclose(found["recall@20"], [2 / 3, 1, 0])
    np.testing.assert_allclose(found["recall@50"], [2 / 3, 1, 0])
    np.testing.assert_allclose(found["mrr"], [1, 1 / 2, 0])
    ideal = sum(1 / np.log2([2, 3, 4]))
    np.testing.assert_allclose(found["ndcg@10"], [1 / ideal, 1 / np.log2(3), 0])


def test_lists_shorter_than_the_cuts_are_measured_as_they_are():
    wanted = retrieval.Positives(np.asarray([4]), np.asarray([0, 1]))
    short = evaluation.list_metrics(np.asarray([[3, 4, 0]]), wanted)
    long = evaluation.list_metrics(np.asarray([[3, 4] + [0] * 70]), wanted)
    assert {name: v.tolist() for name, v in short.items()} == {
        name: v.tolist() for name, v in long.items()
    }
    assert short["recall@50"].tolist() == [1.0]


def test_given_candidates_are_ranked_and_no_others(monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 2)  # so that candidates must follow their requests
    given = np.asarray([[3, 9, 0], [4, 5, 6], [7, 0, 0], [1, 2, 3], [30, 29, 28]])
    found = evaluation.scored(RECOMMENDER, EXAMPLES, ROWS, candidates=given)
    assert found.places.tolist() == given.tolist()
    for number, row in enumerate(ROWS):
        user = EXAMPLES.user_side(np.asarray([row]))
        alone = RETRIEVER.given(user, torch.from_numpy(given[[number]]))
        logits = RECOMMENDER.logits(user, alone)
        np.testing.assert_allclose(found.logits[number], logits[0].numpy(), atol=1e-5)
        labels = EXAMPLES.labels(np.asarray([row]), torch.from_numpy(given[[number]]), 2)
        assert found.labels[number].tolist() == labels[0].tolist()
    slates = evaluation.slates(found, PURCHASE)
    for places, slate, logits in zip(given, slates, found.logits[..., PURCHASE], strict=True):
        real = places > 0
        expected = places[real][np.argsort(-logits[real])].tolist()
        assert slate.tolist() == expected + [0] * (~real).sum()


def test_without_candidates_those_of_retrieval_are_ranked():
    found = evaluation.scored(RECOMMENDER, EXAMPLES, ROWS)
    places = RETRIEVER.recommend(EXAMPLES.user_side(ROWS)).places
    assert found.places.tolist() == places.tolist()
    assert found.logits.shape == (*places.shape, len(MODEL.heads))
    assert found.labels.sum() > 0


def test_a_reading_of_memory_replaces_the_requests_own():
    def hidden(rows):
        user = EXAMPLES.user_side(rows)
        return user.keep(torch.zeros(len(rows), 3, dtype=torch.bool))

    given = np.tile(np.arange(1, 9), (len(ROWS), 1))
    options = {"candidates": given}
    plain = evaluation.scored(RECOMMENDER, EXAMPLES, ROWS, **options)
    without = evaluation.scored(RECOMMENDER, EXAMPLES, ROWS, reading=hidden, **options)
    assert not np.allclose(plain.logits, without.logits)
    np.testing.assert_array_equal(plain.labels, without.labels)


def early():
    """The first requests with all items that appear later than day 10 still to come."""
    catalogue, requests = EXAMPLES.catalogue, EXAMPLES.requests
    moment = catalogue.first_seen_ms[10] + 1
    moved = np.full_like(requests.as_of_ms, moment)
    examples = type(EXAMPLES)(
        type(requests)(**{**vars(requests), "as_of_ms": moved}),
        histories=EXAMPLES.histories,
        catalogue=catalogue,
        features=EXAMPLES.features,
        memory=EXAMPLES.memory,
    )
    return examples, 10


def test_the_nearest_are_never_of_the_future():
    examples, last = early()
    found = evaluation.nearest(RETRIEVER, examples, ROWS, 25)
    assert sorted(found[0].tolist()) == [0] * 15 + list(range(1, last + 1))
    later = evaluation.nearest(RETRIEVER, EXAMPLES, ROWS, 31)
    assert all(sorted(row.tolist()) == list(range(31)) for row in later)


def test_what_was_seen_is_left_out_of_the_whole_history_where_told():
    dropping = Retriever(
        RETRIEVER.net,
        catalogue=RETRIEVER.catalogue,
        popularity=RETRIEVER.popularity,
        features=RETRIEVER.features,
        config=RETRIEVER.config.model_copy(update={"drop_seen": True}),
    )
    recommender = TRAINER.recommender(dropping)
    tops = {
        "nearest": evaluation.nearest(dropping, EXAMPLES, ROWS, 40),
        "scored": evaluation.scored(recommender, EXAMPLES, ROWS).places,
        "candidates": evaluation.candidates(recommender, EXAMPLES, ROWS),
    }
    requests = EXAMPLES.requests
    for number, row in enumerate(ROWS):
        moment = int(requests.as_of_ms[row])
        events = EXAMPLES.histories.seen(int(requests.user[row]), moment)
        seen = set(EXAMPLES.catalogue.places(events["item"]).tolist()) - {0}
        assert len(events) > MODEL.features.history, "beyond what the networks read"
        assert set(EXAMPLES.seen(ROWS)[number].tolist()) - {0} == seen
        for name, top in tops.items():
            assert not set(top[number].tolist()) & seen, name
        assert set(tops["nearest"][number].tolist()) | seen == set(range(31))


def test_flat_leaves_padding_out():
    places = np.asarray([[3, 0], [4, 5]])
    numbers = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    labels, logits, request = Scored(
        places, numbers, np.zeros((2, 2), np.float32), numbers % 2
    ).flat(1)
    assert logits.tolist() == [1, 5, 7]
    assert labels.tolist() == [1, 1, 1]
    assert request.tolist() == [0, 1, 1]


def test_ranking_metrics_use_calibrated_chances_of_their_head():
    places = np.tile(np.arange(1, 5), (2, 1))
    logits = np.zeros((2, 4, 2), np.float32)
    logits[..., PURCHASE] = [[3, 1, -1, -3], [-3, -1, 2, 3]]
    labels = np.zeros((2, 4, 2), np.float32)
    labels[..., PURCHASE] = [[1, 0, 0, 0], [0, 0, 1, 1]]
    scored = Scored(places, logits, np.zeros(places.shape, np.float32), labels)
    found = evaluation.ranking_metrics(scored, RECOMMENDER, PURCHASE)
    assert found["auc"] == found["gauc"] == found["ndcg@10"] == 1.0
    chances = Platt(1.0, 0.0).apply(logits[..., PURCHASE])
    truth = labels[..., PURCHASE]
    expected = -np.mean(np.log(np.where(truth == 1, chances, 1 - chances)))
    assert found["log_loss"] == pytest.approx(expected)
    rate = 3 / 8
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert found["log_loss_of_rate"] == pytest.approx(entropy)
