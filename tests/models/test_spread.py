"""Runs under several seeds: mean and spread, and no mixing of what is not one experiment."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from models.spread import spread

METRICS = ("recall@10", "ndcg@10")


def report(seed: int, value: float) -> dict:
    method = {"mean_low_high": {m: [value + n, 0.0, 1.0] for n, m in enumerate(METRICS)}}
    return {
        "facts": {
            "seed": seed,
            "requests": 5,
            "users": 3,
            "request digest": "ab",
            "split": "time",
        },
        "tables": [{"title": "Full ranking", "methods": {"Ebb": method, "popularity": method}}],
    }


REPORTS = {"runs/a": report(1, 0.1), "runs/b": report(2, 0.2), "runs/c": report(3, 0.6)}


def test_mean_and_spread_are_those_of_the_runs():
    found = spread(REPORTS, title="Full ranking")
    assert (found.seeds, found.metrics) == ((1, 2, 3), METRICS)
    assert found.figures["Ebb"][:, 0].tolist() == [0.1, 0.2, 0.6]
    grid = found.grid()
    deviation = np.std([0.1, 0.2, 0.6], ddof=1)
    assert grid.title == "3 seeds"
    assert grid.rows[0][:2] == ("Ebb", f"0.3000 ± {deviation:.4f} (0.1000 to 0.6000)")


def test_a_method_that_one_run_lacks_is_left_out():
    reports = copy.deepcopy(REPORTS)
    del reports["runs/b"]["tables"][0]["methods"]["popularity"]
    assert list(spread(reports, title="Full ranking").figures) == ["Ebb"]


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("request digest", "cd", "runs/c differs from runs/a in request digest"),
        ("requests", 6, "runs/c differs from runs/a in requests"),
        ("seed", 1, "runs/c was trained with the seed 1, as another run was"),
    ],
)
def test_runs_that_do_not_belong_together_are_named(fact, value, message):
    reports = copy.deepcopy(REPORTS)
    reports["runs/c"]["facts"][fact] = value
    with pytest.raises(ValueError, match=message):
        spread(reports, title="Full ranking")
