"""Studies on disk: what is left of a killed search, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from configs.load import check, read
from jobs.tuning.space import axes_of, draw
from jobs.tuning.studies import AGAIN, INTERRUPTED, counted, fail, open_study, reclaim

CONFIG = Path(__file__).parents[3] / "configs/online_retail.yaml"
SPACE = {"retriever.dropout": {"low": 0.0, "high": 0.5}, "ranker.width": {"choices": [8, 16]}}


def of(**tune):
    given = read(CONFIG)
    given["tune"] = {"space": SPACE, **tune}
    document = check(given, "shop.yaml")
    return document, axes_of(document, given)


def test_trials_that_nobody_runs_are_queued_once_and_count_for_nothing(tmp_path):
    document, axes = of()
    study = open_study(tmp_path, document, "", resume=False)
    done, running, half = (study.ask() for _ in range(3))
    draw(done, axes)
    study.tell(done, 0.5)
    values = draw(running, axes)
    axes[0].suggest(half)  # killed between two of its values

    # As if it had been cut off between the two writes of a trial, once more.
    study.enqueue_trial(running.params, user_attrs={AGAIN: running.number})
    study = open_study(tmp_path, document, "", resume=True)
    assert reclaim(study) == [running.number, half.number]
    assert reclaim(study) == []

    states = [trial.state for trial in study.trials]
    waiting = [TrialState.WAITING] * 2
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, *waiting]
    assert all(study.trials[n].user_attrs[INTERRUPTED] for n in (1, 2))
    assert [trial.number for trial in counted(study)] == [done.number]
    again, rest = study.ask(), study.ask()
    assert (again.number, rest.number) == (3, 4)
    assert draw(again, axes) == values
    assert draw(rest, axes)["retriever.dropout"] == half.params["retriever.dropout"]
    # Cut off a second time, they are queued a second time.
    assert reclaim(study) == [3, 4]
    assert [trial.state for trial in study.trials[3:]] == [TrialState.FAIL] * 2 + waiting


def test_a_trial_that_failed_by_itself_counts(tmp_path):
    document, axes = of()
    study = open_study(tmp_path, document, "", resume=False)
    trial = study.ask()
    draw(trial, axes)
    fail(study, trial, "the loss is nan")
    assert [t.user_attrs["reason"] for t in counted(study)] == ["the loss is nan"]


def test_a_resumed_study_draws_what_it_had_not_drawn(tmp_path):
    document, axes = of(sampler={"kind": "random"})
    study = open_study(tmp_path, document, "", resume=False)
    seen = []
    for _ in range(3):
        trial = study.ask()
        seen.append(draw(trial, axes)["retriever.dropout"])
        study.tell(trial, 0.1)
        study = open_study(tmp_path, document, "", resume=True)
    assert len(set(seen)) == 3


def test_the_pruner_leaves_everyone_the_warm_up(tmp_path):
    document, _ = of(pruner={"kind": "threshold", "lower": 1.0, "warmup": 2})
    study = open_study(tmp_path, document, "", resume=False)
    trial, found = study.ask(), []
    for epoch in (1, 2, 3):
        trial.report(0.5, epoch)
        found.append(trial.should_prune())
    assert found == [False, False, True]


@pytest.mark.parametrize("kind", ["median", "successive_halving"])
def test_a_trial_far_below_the_others_is_stopped(tmp_path, kind):
    document, _ = of(pruner={"kind": kind, "warmup": 1, "startup": 2, "reduction": 2})
    study = open_study(tmp_path, document, "", resume=False)

    def stopped_at(level):
        trial = study.ask()
        for epoch in (1, 2, 3, 4):
            trial.report(level, epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return epoch
        study.tell(trial, level)
        return None

    assert [stopped_at(level) for level in (0.5, 0.6, 0.7)] == [None] * 3
    assert stopped_at(0.1) == 2


def test_two_objectives_have_no_pruner(tmp_path):
    document, _ = of(objectives=["quality", "cost"])
    study = open_study(tmp_path, document, "", resume=False)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert isinstance(study.pruner, optuna.pruners.NopPruner)
