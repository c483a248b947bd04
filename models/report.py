"""What an evaluation found: methods beside one another, with intervals, as JSON, Markdown, plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.config import DAY_MS, Config, Duration
from models.metrics.bootstrap import Interval, by_user, paired_difference

Floats = NDArray[np.float64]
HEADLINE = "ndcg@10"


class EvaluateConfig(Config):
    """How sure to be, on how many requests, and the knobs of the baselines."""

    num_samples: int = Field(1000, gt=0)
    """Bootstrap samples of users."""
    seed: int = 1
    max_requests: int | None = Field(None, gt=0)
    """At most so many requests are measured: those of whole users, drawn by `seed`. None: all."""
    popularity_window: Duration = Field(7 * DAY_MS, gt=0)
    """How far back the baseline of recent popularity counts."""
    item_to_item_half_life: Duration = Field(30 * DAY_MS, gt=0)
    drop_seen: bool = False
    """Popularity and item to item leave out what the user met before, liked or not: the stronger
    baselines where nobody takes the same thing twice."""


@dataclass(frozen=True)
class Method:
    """One method's figures on the same requests as all others in its table."""

    name: str
    lists: dict[str, Floats]
    """Metric to `(R,)` values, a request each."""
    ranking: dict[str, float] = field(default_factory=dict)
    """Figures of candidate lists as a whole."""


@dataclass(frozen=True)
class Compared:
    """A table: methods, their means and intervals, and each one's distance from a reference."""

    title: str
    note: str
    metrics: tuple[str, ...]
    names: tuple[str, ...]
    intervals: tuple[Interval, ...]
    """For each method, over `metrics`."""
    reference: str
    differences: tuple[Interval, ...]
    """Method less reference, by paired bootstrap."""
    ranking: tuple[dict[str, float], ...]

    def row(self, name: str) -> dict[str, float]:
        """Means of one method by metric."""
        interval = self.intervals[self.names.index(name)]
        return dict(zip(self.metrics, interval.mean.tolist(), strict=True))


def compare(
    title: str,
    note: str,
    methods: Sequence[Method],
    *,
    users: NDArray[np.int64],
    reference: str,
    config: EvaluateConfig,
) -> Compared:
    """Means with intervals by a bootstrap over users `(R,)`, and paired differences.

    Args:
        reference: name of the method that all are compared with.
    """
    metrics = tuple(methods[0].lists)
    matrices = {m.name: np.stack([m.lists[k] for k in metrics], axis=1) for m in methods}
    options = {"num_samples": config.num_samples, "seed": config.seed}
    base = matrices[reference]
    return Compared(
        title=title,
        note=note,
        metrics=metrics,
        names=tuple(matrices),
        intervals=tuple(by_user(m, users, **options) for m in matrices.values()),
        reference=reference,
        differences=tuple(paired_difference(m, base, users, **options) for m in matrices.values()),
        ranking=tuple(m.ranking for m in methods),
    )


def as_json(tables: Sequence[Compared], facts: dict[str, Any]) -> str:
    """Everything, for programs."""

    def told(interval: Interval, metrics: tuple[str, ...]) -> dict[str, list[float]]:
        ends = np.stack([interval.mean, interval.low, interval.high], axis=1)
        return dict(zip(metrics, ends.round(6).tolist(), strict=True))

    found = [
        {
            "title": table.title,
            "reference": table.reference,
            "methods": {
                name: {
                    "mean_low_high": told(table.intervals[n], table.metrics),
                    "less_reference": told(table.differences[n], table.metrics),
                    "ranking": table.ranking[n],
                }
                for n, name in enumerate(table.names)
            },
        }
        for table in tables
    ]
    return json.dumps({"facts": facts, "tables": found}, indent=1) + "\n"


def as_markdown(tables: Sequence[Compared], facts: dict[str, Any], plot: str) -> str:
    """Everything, for people."""
    lines = [f"# Evaluation of {facts['name']}", ""]
    lines += [f"* {key}: {value}" for key, value in facts.items() if key != "name"]
    lines += ["", f"![{HEADLINE} with 95 % intervals]({plot})", ""]
    for table in tables:
        lines += [f"## {table.title}", "", table.note, "", *_grid(table), ""]
    return "\n".join(lines)


def _grid(table: Compared) -> list[str]:
    """Rows of a Markdown table; the headline metric with its interval and difference."""
    ranking = list(table.ranking[0])
    head = [
        "method",
        *table.metrics,
        f"{HEADLINE} less {table.reference}",
        *(f"ranking {name}" for name in ranking),
    ]
    place = table.metrics.index(HEADLINE)
    rows = []
    for name, interval, gap, figures in zip(
        table.names, table.intervals, table.differences, table.ranking, strict=True
    ):
        means = [f"{mean:.4f}" for mean in interval.mean]
        means[place] += f" [{interval.low[place]:.4f}, {interval.high[place]:.4f}]"
        away = f"{gap.mean[place]:+.4f} [{gap.low[place]:+.4f}, {gap.high[place]:+.4f}]"
        shown = "" if name == table.reference else away
        rows.append([name, *means, shown, *(f"{figures[k]:.4f}" for k in ranking)])
    return [
        _line(head),
        _line(["---", *["---:"] * (len(head) - 1)]),
        *(_line(row) for row in rows),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(tables: Sequence[Compared], path: Path) -> None:
    """The headline metric of every method in every table, with intervals, as PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(tables), figsize=(6 * len(tables), 3.6), squeeze=False, layout="constrained"
    )
    for axis, table in zip(axes[0], tables, strict=True):
        place = table.metrics.index(HEADLINE)
        means = np.array([i.mean[place] for i in table.intervals])
        low = np.array([i.low[place] for i in table.intervals])
        high = np.array([i.high[place] for i in table.intervals])
        rows = np.arange(len(means))[::-1]
        colours = ["#1f6f8b" if n == table.reference else "#9fb8c0" for n in table.names]
        axis.barh(rows, means, color=colours)
        axis.errorbar(means, rows, xerr=[means - low, high - means], fmt="none", ecolor="black")
        axis.set_yticks(rows, table.names)
        axis.set_xlabel(f"{HEADLINE}, 95 % interval by user bootstrap")
        axis.set_title(table.title, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
