"""Requests in slices: each in one of every trait, and figures that are those of its requests."""

from __future__ import annotations

import numpy as np
import pytest

from models import evaluation
from models.config import DAY_MS
from models.metrics.bootstrap import by_user, paired_difference
from models.report import EvaluateConfig
from models.slices import FEWEST_USERS, TRAITS, sliced, traits
from tests.models.small import planted

SMALL = planted()
EXAMPLES, ROWS = SMALL.examples, SMALL.rows("validate")
WANTED = evaluation.positives(EXAMPLES.requests, ROWS, 1)
CONFIG = EvaluateConfig(num_samples=50)
NAMES = tuple(TRAITS)


def found(trained: np.ndarray | None = None) -> dict[str, np.ndarray]:
    known = np.ones(len(EXAMPLES.catalogue), np.int64) if trained is None else trained
    return traits(EXAMPLES, ROWS, WANTED, known, NAMES)


def test_each_request_lies_where_its_history_says():
    by_trait = found()
    for place, row in enumerate(ROWS):
        user, moment = EXAMPLES.requests.user[row], int(EXAMPLES.requests.as_of_ms[row])
        seen = EXAMPLES.histories.seen(int(user), moment)
        labels = {name: TRAITS[name].labels[by_trait[name][place]] for name in NAMES}
        assert labels["activity"] == ("20 to 99" if len(seen) >= 20 else "5 to 19")
        gap = (moment - seen["ts"][-1]) / DAY_MS
        assert labels["gap"] == ("1 to 7 d" if 1 <= gap < 7 else "7 to 30 d")
        assert labels["tenure"] == "30 to 180 d"
        assert labels["new_items"] == "all in training"


def test_who_has_no_history_has_neither_gap_nor_tenure():
    first = np.asarray([int(np.argmin(EXAMPLES.requests.as_of_ms))])
    requests = EXAMPLES.requests
    early = type(requests)(**{**vars(requests), "as_of_ms": np.zeros_like(requests.as_of_ms)})
    examples = type(EXAMPLES)(
        early,
        histories=EXAMPLES.histories,
        catalogue=EXAMPLES.catalogue,
        features=EXAMPLES.features,
        memory=EXAMPLES.memory,
    )
    wanted = evaluation.positives(early, first, 1)
    known = np.ones(len(EXAMPLES.catalogue), np.int64)
    none = traits(examples, first, wanted, known, NAMES)
    assert {name: int(value[0]) for name, value in none.items()} == dict.fromkeys(NAMES, 0)


def test_a_request_wants_something_new_where_any_item_was_not_in_training():
    trained = np.ones(len(EXAMPLES.catalogue), np.int64)
    fresh = int(WANTED.items[0])
    trained[fresh] = 0
    told = found(trained)["new_items"]
    for number in range(len(ROWS)):
        items = WANTED.items[WANTED.offsets[number] : WANTED.offsets[number + 1]]
        assert told[number] == (fresh in items)


def test_figures_are_those_of_the_requests_of_a_slice():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(40), 3)
    values = {"ours": rng.random(120), "theirs": rng.random(120), "none": rng.random(120)}
    of = (users >= 8).astype(np.int64)  # the first slice has too few users
    table = sliced("ndcg@10", values, {"new_items": of}, users=users, config=CONFIG)
    (one,) = table.slices
    assert FEWEST_USERS > 8
    assert (one.label, one.num_requests, one.num_users) == ("some new since", 96, 32)
    mask = of == 1
    options = {"num_samples": CONFIG.num_samples, "seed": CONFIG.seed}
    for name, interval in zip(values, one.intervals, strict=True):
        expected = by_user(values[name][mask, None], users[mask], **options)
        assert interval.mean == pytest.approx(expected.mean)
        assert interval.low == pytest.approx(expected.low)
    own, other = (values[name][mask, None] for name in ("ours", "theirs"))
    gap = paired_difference(own, other, users[mask], **options)
    assert one.difference.high == pytest.approx(gap.high)
    grid = table.grid()
    assert grid.head[-1] == "ours less theirs"
    assert grid.rows[0][:3] == ("wanted items: some new since", "96", "32")
