"""What a study has found so far, as files that a person or `train` can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from configs.load import Document
from jobs.files import whole
from jobs.prepared import replacing
from jobs.tuning import plots
from jobs.tuning.space import Axis, placed, text_of, values_of
from jobs.tuning.studies import AGAIN, AS_IT_STANDS, INTERRUPTED, NOTE, REASON
from models.space import TuneConfig

HEADLINE = "ndcg@10"


def names_of(config: TuneConfig) -> list[str]:
    """The objectives in words."""
    quality = f"{config.stage} {HEADLINE}"
    return [quality, "cost"][: len(config.objectives)]


def complete(study: optuna.Study) -> list[FrozenTrial]:
    """Trials with a value."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def best_of(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial; with two objectives the Pareto front, the cheapest first.

    The front: trials that no other one equals or beats in both.
    """
    trials = complete(study)
    if len(study.directions) == 1:
        return sorted(trials, key=lambda trial: (-trial.values[0], trial.number))[:1]
    front = sorted(trials, key=lambda trial: (trial.values[1], -trial.values[0], trial.number))
    kept: list[FrozenTrial] = []
    for trial in front:
        if not kept or trial.values[0] > kept[-1].values[0]:
            kept.append(trial)
    return kept


def write(
    study: optuna.Study,
    axes: list[Axis],
    document: Document,
    given: Mapping[str, Any],
    *,
    pictures: bool,
) -> None:
    """Writes the table of trials, the best document or those of the front, and the pictures.

    Args:
        given: what the document says itself.
        pictures: whether to draw; that takes a second or two.
    """
    folder = document.folder / "tuning"
    with whole(folder / "trials.csv") as path:
        path.write_text(_table(study, axes, document.tune))
    best = best_of(study)
    texts = {trial.number: document_of(trial, study, axes, document, given) for trial in best}
    if len(study.directions) > 1 and best:
        with replacing(folder / "pareto") as fresh:
            for number, text in texts.items():
                (fresh / f"trial-{number:04}.yaml").write_text(text)
    elif best:
        with whole(folder / "best.yaml") as path:
            path.write_text(texts[best[0].number])
    if pictures:
        names = names_of(document.tune)
        plots.draw_history(study, names, folder / "history.png")
        plots.draw_importance(study, names, folder / "importance.png")
        if len(names) > 1:
            plots.draw_front(study, best, names, folder / "pareto.png")


def document_of(
    trial: FrozenTrial,
    study: optuna.Study,
    axes: list[Axis],
    document: Document,
    given: Mapping[str, Any],
) -> str:
    """A document with a trial's values in place, as YAML."""
    values = values_of(trial.params, axes)
    found = ", ".join(
        f"{name} {value:.4f}"
        for name, value in zip(names_of(document.tune), trial.values, strict=True)
    )
    lines = [
        f"# Written by jobs.tune: study {study.study_name}, trial {trial.number}: {found}.",
        *(f"#   {path}: {text_of(value)}" for path, value in values.items()),
    ]
    made = placed(given, document, values)
    text = yaml.safe_dump(
        made, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )
    return "\n".join([*lines, text])


def _table(study: optuna.Study, axes: list[Axis], config: TuneConfig) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    paths = [axis.path for axis in axes]
    writer.writerow(["trial", "state", *names_of(config), *paths, "epochs", "seconds", "note"])
    for trial in study.get_trials(deepcopy=False):
        values = values_of(trial.params, axes)
        shown = trial.values if trial.state is TrialState.COMPLETE else None
        writer.writerow(
            [
                trial.number,
                trial.state.name,
                *(shown or [""] * len(config.objectives)),
                *(text_of(values[path]) if path in values else "" for path in paths),
                len(trial.intermediate_values) or "",
                trial.user_attrs.get("seconds", ""),
                note_of(trial),
            ]
        )
    return out.getvalue()


def note_of(trial: FrozenTrial) -> str:
    """What else there is to say of a trial."""
    marks = trial.user_attrs
    notes = [marks[key] for key in (REASON, NOTE) if key in marks]
    if AS_IT_STANDS in marks:
        notes.append("the document as it stands")
    if AGAIN in marks:
        notes.append(f"trial {marks[AGAIN]} again")
    if INTERRUPTED in marks:
        notes.append("queued again")
    return "; ".join(map(str, notes))


def told_values(trial: FrozenTrial, axes: Sequence[Axis]) -> str:
    """The values of a trial in a line."""
    values = values_of(trial.params, list(axes))
    return "  ".join(f"{path}={_short(value)}" for path, value in values.items())


def values_of_row(trial: FrozenTrial, axes: Sequence[Axis]) -> list[str]:
    """A row of the table at the end: number, objectives, values."""
    values = values_of(trial.params, list(axes))
    shown = [_short(values[axis.path]) if axis.path in values else "" for axis in axes]
    return [str(trial.number), *(f"{value:.4f}" for value in trial.values), *shown]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)
