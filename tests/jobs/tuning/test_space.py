"""The space against its document: values, keys, and what a trial's document says."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import yaml

from configs.load import check, load, read
from jobs.tuning.space import as_it_stands, axes_of, draw, placed, values_of

CONFIG = Path(__file__).parents[3] / "configs/online_retail.yaml"
SPACES = sorted((CONFIG.parent / "tune").glob("*.yaml"))


def of(space, *sets):
    """Document, what it says itself, and the axes of a space."""
    given = read(CONFIG, sets)
    given["tune"] = {"space": space}
    document = check(given, "shop.yaml")
    return document, given, axes_of(document, given)


def drawn(axes, num=40):
    """Values of some trials, each as drawn and as read back from its parameters."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    found = []
    for _ in range(num):
        trial = study.ask()
        values = draw(trial, axes)
        assert values_of(trial.params, axes) == values
        study.tell(trial, 0.0)
        found.append(values)
    return found


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_spaces_of_the_project_fit_the_bundled_document(path):
    given = read(CONFIG, sections={"tune": path})
    document = check(given, str(CONFIG), sections={"tune": path})
    axes = axes_of(document, given)
    for values in drawn(axes, num=10):
        check(placed(given, document, values), "a trial")


def test_the_bundled_document_brings_a_space():
    given = read(CONFIG)
    assert axes_of(load(CONFIG), given)


def test_ranges_hold_what_their_key_may_be():
    *_, axes = of(
        {
            "retriever.width": {"low": 8, "high": 32, "step": 8},
            "retriever.dropout": {"low": 0, "high": 0.5},
            "train.retriever.weight_decay": {"low": 0, "high": 1},  # whole ends, but a fraction
            "features.match_half_lives.0": {"low": "6h", "high": "3d", "log": True},
            "memory.view.half_lives": {"choices": [["1d", "7d"], ["30d"]]},
            "features.levels": {"choices": [["user"], []]},
            "train.retriever.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        }
    )
    trials = drawn(axes)
    assert {values["retriever.width"] for values in trials} == {8, 16, 24, 32}
    assert all(isinstance(values["retriever.width"], int) for values in trials)
    decays = {values["train.retriever.weight_decay"] for values in trials}
    assert len(decays) > 30
    hours = [values["features.match_half_lives.0"] for values in trials]
    assert all(text.endswith("h") and 6 <= int(text[:-1]) <= 72 for text in hours)
    lists = [values["memory.view.half_lives"] for values in trials]
    assert sorted(map(list, {tuple(one) for one in lists})) == [["1d", "7d"], ["30d"]]
    low = sum(values["train.retriever.learning_rate"] < 3e-3 for values in trials)
    assert 10 < low < 30, "evenly by magnitude"


def test_a_parameter_is_asked_for_only_when_another_one_says_so():
    *_, axes = of(
        {
            "ranker.num_cross": {"choices": [0, 1, 2]},
            "ranker.cross_rank": {"choices": [4, 8], "when": {"ranker.num_cross": [1, 2]}},
        }
    )
    trials = drawn(axes)
    assert {values["ranker.num_cross"] for values in trials} == {0, 1, 2}
    for values in trials:
        assert ("ranker.cross_rank" in values) == (values["ranker.num_cross"] > 0)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"retriever.widht": {"choices": [8]}},
            r"tune\.space\.retriever\.widht: retriever\.widht: unknown key; did you mean 'width'",
        ),
        ({"nothing": {"choices": [8]}}, r"tune\.space\.nothing: nothing: unknown key"),
        ({"retriever.width.x": {"choices": [8]}}, r"retriever\.width\.x: there is no 'x' in 64"),
        (
            {"memory.view.half_lives.7": {"choices": ["1d"]}},
            r"half_lives\.7: there is no '7' in a list of 4",
        ),
        ({"retriever.width": {"choices": [8, "wide"]}}, r"retriever\.width: .*'wide'"),
        ({"retriever.width": {"low": 0, "high": 8}}, r"retriever\.width: .*greater than 0"),
        ({"retriever.width": {"low": 8.5, "high": 16}}, r"retriever\.width: .*valid integer"),
        ({"retriever.dropout": {"low": 0, "high": 1}}, r"retriever\.dropout: .*less than 1"),
        ({"memory.view.fast": {"low": "1.5h", "high": "2d"}}, "1.5h is no whole number of h"),
        ({"memory.view.half_lives": {"choices": [["soon"]]}}, "'soon' is no duration"),
        ({"requests.per": {"choices": ["event"]}}, r"requests\.per cannot be searched: what"),
        ({"train.num_workers": {"choices": [1]}}, "cannot be searched: it says how a training"),
        ({"source": {"choices": [{}]}}, "source cannot be searched"),
        ({"evaluate.seed": {"choices": [1]}}, "cannot be searched: it changes nothing"),
        ({}, r"tune\.space is empty: .* configs/tune/ has examples"),
    ],
)
def test_what_does_not_fit_the_document_is_refused_by_its_key(space, said):
    with pytest.raises(ValueError, match=said):
        of(space)


def test_values_stand_beside_what_was_there():
    """Defaults of a section inside a document may differ from those of the section by itself."""
    space = {
        "train.ranker.learning_rate": {"low": 1e-4, "high": 1e-1},
        "memory.view.half_lives.1": {"choices": ["3d"]},
        "memory.state.num_interests": {"choices": [16, 32]},
        "features.match_half_lives.2": {"choices": ["90d"]},
    }
    document, given, _ = of(space)
    before = yaml.safe_dump(given)
    values = {path: 0.05 if "train" in path else p["choices"][0] for path, p in space.items()}
    made = check(placed(given, document, values), "a trial")
    assert yaml.safe_dump(given) == before
    rate = {"learning_rate": 0.05}
    assert made.train.ranker == document.train.ranker.model_copy(update=rate)
    assert made.train.retriever == document.train.retriever
    day = 86_400_000
    assert made.memory.view.half_lives == (day, 3 * day, 30 * day, 180 * day)
    assert made.features.match_half_lives == (7 * day, 30 * day, 90 * day)
    assert made.catalogue.num_interests == made.memory.state.num_interests == 16


def test_what_the_document_has_now_can_be_the_first_trial():
    space = {
        "retriever.width": {"choices": [32, 64]},
        "memory.view.half_lives": {"choices": [["1d"], ["1d", "7d", "30d", "180d"]]},
        "memory.view.fast": {"low": "12h", "high": "30d"},
        "retriever.dropout": {"low": 0, "high": 0.5},
    }
    document, given, axes = of(space)
    first = as_it_stands(document, axes)
    values = values_of(first, axes)
    assert check(placed(given, document, values), "a trial") == document
    assert values["memory.view.fast"] == "336h"
    document, _, axes = of(space, "retriever.width=16")
    assert as_it_stands(document, axes) is None
