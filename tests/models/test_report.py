"""What a report says is what it was given: means, intervals, differences, in every form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.metrics.bootstrap import by_user
from models.report import (
    HEADLINE,
    Compared,
    EvaluateConfig,
    Method,
    as_json,
    beyond_accuracy,
    compare,
)
from models.reporting.markdown import as_markdown

CONFIG = EvaluateConfig(num_samples=200, seed=3)
METRICS = ("recall@10", HEADLINE, "mrr")
USERS = np.repeat(np.arange(12), 4)
FACTS = {"name": "shop", "requests": len(USERS), "model digest": "0123456789abcdef"}


def method(name: str, seed: int, **ranking: float) -> Method:
    rng = np.random.default_rng(seed)
    return Method(name, {metric: rng.random(len(USERS)) for metric in METRICS}, ranking)


GIVEN = [method("ours", 1, auc=0.75, log_loss=0.25), method("theirs", 2, auc=0.5, log_loss=0.5)]


def table(reference: str = "ours") -> Compared:
    return compare(
        "Ours and theirs", "Both.", GIVEN, users=USERS, reference=reference, config=CONFIG
    )


def rows_of(markdown: str) -> list[dict[str, str]]:
    """The rows of the only table in a document, by the header."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_means_and_intervals_are_those_of_the_requests():
    found = table()
    assert (found.names, found.metrics) == (("ours", "theirs"), METRICS)
    for given, interval in zip(GIVEN, found.intervals, strict=True):
        values = np.stack([given.lists[m] for m in METRICS], axis=1)
        assert interval.mean == pytest.approx(values.mean(axis=0))
        expected = by_user(values, USERS, num_samples=200, seed=3)
        assert np.array_equal(interval.low, expected.low)
        assert np.array_equal(interval.high, expected.high)
        assert found.row(given.name) == dict(zip(METRICS, interval.mean, strict=True))


def test_the_reference_does_not_differ_from_itself():
    for reference in ("ours", "theirs"):
        found = table(reference)
        zero = found.differences[found.names.index(reference)]
        assert not np.stack([zero.mean, zero.low, zero.high]).any()


def test_differences_turn_with_the_reference():
    ours, theirs = table("ours"), table("theirs")
    gap = theirs.differences[0]
    away = ours.intervals[0].mean - ours.intervals[1].mean
    assert gap.mean == pytest.approx(away)
    assert ours.differences[1].mean == pytest.approx(-away)
    assert ours.differences[1].low == pytest.approx(-gap.high)
    assert ours.differences[1].high == pytest.approx(-gap.low)


def test_methods_that_share_their_requests_differ_more_surely_than_each_is_known():
    """The same requests are redrawn for both, so what they have in common cancels."""
    better = Method("better", {k: v + 0.01 for k, v in GIVEN[0].lists.items()})
    worse = Method("worse", GIVEN[0].lists)
    found = compare("", "", [better, worse], users=USERS, reference="better", config=CONFIG)
    gap = found.differences[1]
    assert gap.low == pytest.approx(-0.01)
    assert gap.high == pytest.approx(-0.01)
    assert (found.intervals[0].high - found.intervals[0].low > 0.05).all()


def test_json_is_what_was_found():
    found = table()
    told = json.loads(as_json([found], FACTS))
    assert told["facts"] == FACTS
    (one,) = told["tables"]
    assert (one["title"], one["reference"]) == ("Ours and theirs", "ours")
    assert list(one["methods"]) == ["ours", "theirs"]
    for number, said in enumerate(one["methods"].values()):
        assert said["ranking"] == GIVEN[number].ranking
        for key, interval in (
            ("mean_low_high", found.intervals[number]),
            ("less_reference", found.differences[number]),
        ):
            ends = np.stack([interval.mean, interval.low, interval.high], axis=1)
            assert np.asarray([said[key][m] for m in METRICS]) == pytest.approx(ends, abs=1e-6)


def test_markdown_is_what_was_found():
    found = table()
    text = as_markdown([found.grid()], FACTS, {found.title: [("plot.svg", "a plot")]})
    assert text.startswith("# Evaluation of shop\n")
    assert "* model digest: 0123456789abcdef\n" in text
    assert "![a plot](plot.svg)" in text
    ours, theirs = rows_of(text)
    place = METRICS.index(HEADLINE)
    for number, row in enumerate((ours, theirs)):
        interval = found.intervals[number]
        assert row["method"] == found.names[number]
        for metric, mean in zip(METRICS, interval.mean, strict=True):
            assert row[metric].split()[0] == f"{mean:.4f}"
        assert row[HEADLINE].endswith(f"[{interval.low[place]:.4f}, {interval.high[place]:.4f}]")
        assert row["ranking auc"] == f"{GIVEN[number].ranking['auc']:.4f}"
    gap = found.differences[1]
    assert ours["ndcg@10 less ours"] == ""
    assert theirs["ndcg@10 less ours"].startswith(f"{gap.mean[place]:+.4f} [")


def test_methods_without_ranking_figures_have_no_such_columns():
    bare = [Method(each.name, each.lists) for each in GIVEN]
    found = compare("", "", bare, users=USERS, reference="theirs", config=CONFIG)
    assert list(rows_of(as_markdown([found.grid()], FACTS, {}))[0]) == [
        "method",
        *METRICS,
        "ndcg@10 less theirs",
    ]


def test_rows_are_plain_values_with_the_same_keys():
    found = table()
    ours, theirs = found.rows()
    assert list(ours) == list(theirs)
    place = METRICS.index(HEADLINE)
    assert (ours["method"], theirs["method"]) == ("ours", "theirs")
    assert ours[HEADLINE] == pytest.approx(found.intervals[0].mean[place])
    assert theirs[f"{HEADLINE} high"] == pytest.approx(found.intervals[1].high[place])
    assert theirs[f"{HEADLINE} less ours low"] == pytest.approx(found.differences[1].low[place])
    assert ours["ranking auc"] == 0.75
    assert json.loads(json.dumps([ours, theirs])) == [ours, theirs]


def test_beyond_accuracy_is_a_table_of_its_own():
    rng = np.random.default_rng(1)
    methods = [
        Method(name, {}, beyond={"novelty@10": rng.random(len(USERS))}, coverage=share)
        for name, share in (("ours", 0.5), ("theirs", 0.25))
    ]
    found = beyond_accuracy(methods, users=USERS, reference="ours", config=CONFIG)
    assert (found.metrics, found.headline) == (("novelty@10",), "novelty@10")
    assert [row["coverage@10"] for row in found.ranking] == [0.5, 0.25]
    assert found.grid().head == ("method", "novelty@10", "novelty@10 less ours", "coverage@10")
