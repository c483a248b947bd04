"""Pictures of a study: how it went, what mattered, and the front of two objectives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

mpl.use("agg")
from matplotlib import pyplot as plt  # the backend comes first
from matplotlib.ticker import MaxNLocator

STRONG, PALE, BAD = "#1f6f8b", "#9fb8c0", "#c8553d"
FEWEST = 4
"""Trials with a value that importances need to mean anything at all."""


def draw_history(study: optuna.Study, names: Sequence[str], path: Path) -> None:
    """Every trial in the order of its beginning, an axis for each objective."""
    figure, axes = plt.subplots(
        len(names), 1, figsize=(8, 3.4 * len(names)), squeeze=False, layout="constrained"
    )
    trials = study.get_trials(deepcopy=False)
    for place, (axis, name) in enumerate(zip(axes[:, 0], names, strict=True)):
        _history(axis, trials, place, sign=1 if place == 0 else -1)
        axis.set_ylabel(name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_title(f"Study {study.study_name}", loc="left")
    axes[-1, 0].set_xlabel("trial")
    _save(figure, path)


def _history(axis: Any, trials: list[FrozenTrial], place: int, *, sign: int) -> None:
    """Trials by what became of them, and the best value so far."""
    whole = [t for t in trials if t.state is TrialState.COMPLETE]
    numbers = [t.number for t in whole]
    values = np.array([t.values[place] for t in whole])
    axis.scatter(numbers, values, color=STRONG, s=28, zorder=3, label=f"complete ({len(whole)})")
    if len(whole):
        best = sign * np.maximum.accumulate(sign * values)
        axis.step(numbers, best, where="post", color=STRONG, linewidth=1.2, label="best so far")
    stopped = [t for t in trials if t.state is TrialState.PRUNED and t.intermediate_values]
    if stopped:
        last = [t.intermediate_values[t.last_step] for t in stopped]  # type: ignore[index]  # has one
        label = f"pruned, at its last epoch ({len(stopped)})"
        axis.scatter([t.number for t in stopped], last, color=PALE, marker="x", label=label)
    failed = [t.number for t in trials if t.state is TrialState.FAIL]
    if failed:
        low = axis.get_ylim()[0]
        label = f"failed ({len(failed)})"
        axis.scatter(failed, [low] * len(failed), color=BAD, marker="|", s=60, label=label)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def draw_importance(study: optuna.Study, names: Sequence[str], path: Path) -> None:
    """What share of the differences between trials each parameter accounts for."""
    figure, axes = plt.subplots(
        1, len(names), figsize=(1.5 + 5.5 * len(names), 3.6), squeeze=False, layout="constrained"
    )
    for place, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        found = importances(study, place)
        axis.set_title(f"What matters for {name}", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        if not found:
            text = f"not told: {FEWEST} trials with\ndifferent values are needed"
            axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
            continue
        rows = np.arange(len(found))[::-1]
        bars = axis.barh(rows, list(found.values()), color=STRONG)
        axis.bar_label(bars, [f"{share:.2f}" for share in found.values()], padding=3)
        axis.set_yticks(rows, list(found))
        axis.set_xlim(0, 1.12 * max(*found.values(), 0.01))
        axis.set_xlabel("importance (PED-ANOVA), of 1 in all")
    _save(figure, path)


def importances(study: optuna.Study, place: int) -> dict[str, float]:
    """Parameter to its share, the greatest first; empty where that cannot be told.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), over the parameters that all trials have.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    shared = [n for n in (trials[0].params if trials else ()) if all(n in t.params for t in trials)]
    varied = [n for n in shared if len({str(t.params[n]) for t in trials}) > 1]
    if len(trials) < FEWEST or not varied or len({t.values[place] for t in trials}) < 2:
        return {}
    sign = -1 if place == 0 else 1  # the evaluator takes the least value for the best
    # It asks where the best trials lie, and wants five of them or so to tell.
    share = min(max(0.1, 5 / len(trials)), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that low values are good, to it
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
            params=varied,
            target=lambda trial: sign * trial.values[place],
        )


def draw_front(
    study: optuna.Study, front: Sequence[FrozenTrial], names: Sequence[str], path: Path
) -> None:
    """All trials by cost and quality; the front is labelled with trial numbers."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    axis.scatter([t.values[1] for t in trials], [t.values[0] for t in trials], color=PALE, s=24)
    cost, quality = ([t.values[k] for t in front] for k in (1, 0))
    axis.step(cost, quality, where="post", color=STRONG, linewidth=1.2)
    axis.scatter(cost, quality, color=STRONG, s=32, zorder=3, label="no other is better in both")
    for trial in front:
        axis.annotate(
            str(trial.number),
            (trial.values[1], trial.values[0]),
            xytext=(-4, 4),  # up and to the left of the front there is nothing
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
    axis.set_xlabel(f"{names[1]} of a request: millions of multiply-adds and bytes of weights")
    axis.set_ylabel(names[0])
    axis.set_title(f"Study {study.study_name}: quality against cost", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
