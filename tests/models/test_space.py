"""The `tune` section: what it takes, and what it refuses by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.space import Parameter, PrunerConfig, TuneConfig

TWO = {"choices": [1, 2]}


def test_a_range_takes_numbers_and_lengths_of_time():
    assert Parameter(low=1, high=4).low == 1
    # YAML reads `5e-4` as a text.
    assert Parameter.model_validate({"low": "5e-4", "high": "1e-2", "log": True}).low == 5e-4
    assert Parameter(low="6 h", high="3d").is_duration
    assert not Parameter(choices=("1d", "2d")).is_duration
    assert Parameter(choices=("1e-3", "e3", 2)).choices == (1e-3, "e3", 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give low and high, or choices"),
        ({"low": 1}, "give low and high, or choices"),
        ({"low": 1, "high": 2, "choices": [1]}, "give low and high, or choices"),
        ({"high": 2, "choices": [1]}, "give low and high, or choices"),
        ({"choices": []}, "at least 1 item"),
        ({"choices": [1, 2, 1]}, "one is there twice"),
        ({"choices": [1, 2], "log": True}, "belong to a range"),
        ({"low": 2, "high": 2}, "low 2 is not below high 2"),
        ({"low": "2d", "high": "36h"}, "low 2d is not below high 36h"),
        ({"low": 1, "high": "2d"}, "both as numbers, or both as lengths"),
        ({"low": 0, "high": 1, "log": True}, "a low above 0"),
        ({"low": 1, "high": 9, "log": True, "step": 2}, "without a step"),
        ({"low": True, "high": 2}, "a number is needed"),
        ({"low": "soon", "high": "2d"}, "'soon' is no duration"),
        ({"low": 1, "hihg": 2}, "Extra inputs"),
    ],
)
def test_what_is_no_parameter_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Parameter.model_validate(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": ["cost"]}, r"\[quality\] or \[quality, cost\]"),
        ({"space": {"a": TWO, "a.b": TWO}}, "a and a.b set the same value"),
        ({"space": {"a": {**TWO, "when": {"b": [1]}}, "b": TWO}}, "declared before"),
        ({"space": {"b": TWO, "a": {**TWO, "when": {"b": [3]}}}}, "some of its choices"),
        ({"space": {"b": {"low": 1, "high": 2}, "a": {**TWO, "when": {"b": [1]}}}}, "a: when: b"),
        ({"pruner": {"kind": "threshold"}}, "threshold needs lower"),
        ({"pruner": {"lower": 0.1}}, "only that kind has it"),
        ({"trials": 0}, "greater than 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        TuneConfig.model_validate(given)


def test_keys_that_begin_alike_are_two_keys():
    assert len(TuneConfig.model_validate({"space": {"a.b": TWO, "a.bc": TWO}}).space) == 2


def test_two_objectives_are_not_pruned():
    assert TuneConfig().is_pruned
    assert not TuneConfig(objectives=("quality", "cost")).is_pruned
    assert not TuneConfig(pruner=PrunerConfig(kind="none")).is_pruned
