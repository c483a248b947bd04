"""The study on disk: begun, taken up again, and what is left of trials that nobody runs any more.

One process alone asks and tells, so its storage is one SQLite file: each write is a transaction,
and a `kill -9` between any two leaves a whole study.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from configs.load import Document
from jobs.files import write_json
from models.config import digest_of
from models.space import PrunerConfig, TuneConfig

INTERRUPTED, AGAIN, AS_IT_STANDS = "interrupted", "again", "as_it_stands"
"""Marks on trials: cut off with the driver; takes up the trial of that number; has the values that
the document has."""
REASON, NOTE = "reason", "note"
"""Why a trial failed; where it was stopped."""
_COMPARED = ("catalogue", "memory", "requests", "features", "retriever", "ranker", "candidates")


def open_study(folder: Path, document: Document, prepared: str, *, resume: bool) -> optuna.Study:
    """Begins the study of a folder, or takes it up again.

    Args:
        prepared: a digest of the prepared data that trials begin from.

    Raises:
        ValueError: when there is a study already, none to resume, or its trials were measured
            otherwise than this document says.
    """
    path = folder / "study.json"
    digests = _digests(document, prepared)
    if not resume:
        if path.is_file():
            raise ValueError(
                f"{folder} holds a study already: --resume goes on with it; to begin anew, move "
                "the folder away or delete it"
            )
        name = f"{document.name}-{uuid.uuid4().hex[:6]}"
        write_json({"name": name, "digests": digests}, path)
    if not path.is_file():
        raise ValueError(f"{folder}: there is no study to resume; leave --resume out")
    found = json.loads(path.read_text())
    changed = [key for key in digests if found["digests"].get(key) != digests[key]]
    if changed:
        raise ValueError(
            f"{folder} was begun under another {', '.join(changed)}: its trials cannot be compared "
            "with new ones; restore what was, or move the folder away to begin anew"
        )
    return _study(folder, document.tune, str(found["name"]))


def _digests(document: Document, prepared: str) -> dict[str, str]:
    """Of all that makes figures of two trials comparable; not of how many trials, and how fast."""
    tune = document.tune
    searched = tune.model_dump(mode="json", include={"space", "stage", "objectives"})
    return {
        **{name: getattr(document, name).digest() for name in _COMPARED},
        "train": document.train.deciding(),
        "tune.space, stage or objectives": digest_of(searched),
        "prepared data": prepared,
    }


def _study(folder: Path, config: TuneConfig, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(folder / 'study.db').resolve()}",
        engine_kwargs={"connect_args": {"timeout": 60}},  # a dashboard may be reading
    )
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        directions=["maximize", "minimize"][: len(config.objectives)],
    )
    # Drawn anew from the seed alone, the values of a resumed study would be those of its beginning.
    study.sampler = _sampler(config, config.sampler.seed + len(study.get_trials(deepcopy=False)))
    study.pruner = _pruner(config.pruner) if config.is_pruned else optuna.pruners.NopPruner()
    return study


def _sampler(config: TuneConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.sampler.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=config.sampler.startup,
        multivariate=True,
        group=any(parameter.when for parameter in config.space.values()),
        constant_liar=True,
        seed=seed,
    )


def _pruner(config: PrunerConfig) -> optuna.pruners.BasePruner:
    first = config.warmup + 1  # steps are epochs, counted from 1
    if config.kind == "median":
        return optuna.pruners.MedianPruner(config.startup, first)
    if config.kind == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(first, config.reduction)
    return optuna.pruners.ThresholdPruner(lower=config.lower, n_warmup_steps=first)


def reclaim(study: optuna.Study) -> list[int]:
    """Marks trials that nobody runs any more as failed, and puts their values in the queue.

    It may be cut off itself at any moment and called again: each trial is queued once.

    Returns:
        numbers of those trials.
    """
    trials = study.get_trials(deepcopy=False)
    queued = {trial.user_attrs.get(AGAIN) for trial in trials}
    left = [trial for trial in trials if trial.state is TrialState.RUNNING]
    for trial in left:
        if trial.number not in queued:
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            study.enqueue_trial(params, user_attrs={AGAIN: trial.number})
        fail(study, trial, "the search was cut off", **{INTERRUPTED: True})
    return [trial.number for trial in left]


def fail(
    study: optuna.Study,
    trial: optuna.Trial | optuna.trial.FrozenTrial,
    reason: str,
    **marks: Any,
) -> None:
    """Tells the study that a trial failed, and why."""
    open_trial = optuna.Trial(study, trial._trial_id)
    for name, mark in {REASON: reason, **marks}.items():
        open_trial.set_user_attr(name, mark)
    study.tell(trial.number, state=TrialState.FAIL)


def counted(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that came to an end of their own: those that `tune.trials` counts."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs
    ]
