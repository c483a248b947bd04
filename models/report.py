"""What an evaluation found: methods beside one another, with intervals.

`models.reporting` tells it as Markdown, as a page and in plots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.config import DAY_MS, Config, Duration
from models.metrics.bootstrap import Interval, by_user, paired_difference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HEADLINE = "ndcg@10"
Trait = Literal["activity", "gap", "tenure", "new_items"]


class EvaluateConfig(Config):
    """How sure to be, on how many requests, beside what, and the knobs of the baselines."""

    num_samples: int = Field(1000, gt=0)
    """Bootstrap samples of users."""
    seed: int = 1
    max_requests: int | None = Field(None, gt=0)
    """At most so many requests are measured: those of whole users, drawn by `seed`. None: all."""
    popularity_window: Duration = Field(7 * DAY_MS, gt=0)
    """How far back the baseline of recent popularity counts."""
    item_to_item_half_life: Duration = Field(30 * DAY_MS, gt=0)
    als_factors: int = Field(64, gt=0)
    drop_seen: bool | None = None
    """Popularity, item to item and ALS leave out what the user met before, liked or not: the
    stronger baselines where nobody takes the same thing twice. None: as `candidates.drop_seen`."""
    beside: dict[str, str] = Field(default_factory=dict)
    """Name to the folder (`runs/other`) or document of another run, trained on the same requests:
    its retriever's full ranking stands in the same table."""
    seeds: tuple[str, ...] = ()
    """Folders of runs that differ from this one in `train.seed` alone, evaluated before: the report
    gives the mean and the spread of all of them."""
    slices: tuple[Trait, ...] = ("activity", "gap", "tenure", "new_items")
    staleness: tuple[Duration, ...] = (DAY_MS, 3 * DAY_MS, 7 * DAY_MS, 14 * DAY_MS)
    """How old a memory is tried. Not where users are left one out: there is no common time."""


@dataclass(frozen=True)
class Method:
    """One method's figures on the same requests as all others in its table."""

    name: str
    lists: dict[str, Floats]
    """Metric to `(R,)` values, a request each."""
    ranking: dict[str, float] = field(default_factory=dict)
    """Figures of all requests together."""
    beyond: dict[str, Floats] = field(default_factory=dict)
    """As `lists`, of what accuracy does not say."""
    coverage: float = float("nan")
    """Share of the catalogue that is in somebody's first ten."""

    def renamed(self, name: str) -> Method:
        """The same figures in another table."""
        return Method(name, self.lists, self.ranking, self.beyond, self.coverage)


@dataclass(frozen=True)
class Grid:
    """A table of text, for any way of telling it; the first column is a name."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
    headline: str = HEADLINE
    """The metric that is told with its interval."""

    def row(self, name: str) -> dict[str, float]:
        """Means of one method by metric."""
        interval = self.intervals[self.names.index(name)]
        return dict(zip(self.metrics, interval.mean.tolist(), strict=True))

    def rows(self) -> list[dict[str, str | float]]:
        """A row of plain values a method, all with the same keys: for trackers and data frames."""
        place = self.metrics.index(self.headline)
        return [
            {
                "method": name,
                **self.row(name),
                f"{self.headline} low": float(own.low[place]),
                f"{self.headline} high": float(own.high[place]),
                f"{self.headline} less {self.reference}": float(away.mean[place]),
                f"{self.headline} less {self.reference} low": float(away.low[place]),
                f"{self.headline} less {self.reference} high": float(away.high[place]),
                **{f"ranking {key}": value for key, value in figures.items()},
            }
            for name, own, away, figures in zip(
                self.names, self.intervals, self.differences, self.ranking, strict=True
            )
        ]

    def grid(self) -> Grid:
        """As text; the headline metric with its interval and difference."""
        place, ranking = self.metrics.index(self.headline), list(self.ranking[0])
        told = [f"ranking {key}" if key in _OF_RANKING else key for key in ranking]
        rows = []
        for name, interval, gap, figures in zip(
            self.names, self.intervals, self.differences, self.ranking, strict=True
        ):
            means = [f"{mean:.4f}" for mean in interval.mean]
            means[place] = span(interval, place)
            shown = "" if name == self.reference else span(gap, place, sign="+")
            rows.append((name, *means, shown, *(f"{figures[k]:.4f}" for k in ranking)))
        away = f"{self.headline} less {self.reference}"
        return Grid(self.title, self.note, ("method", *self.metrics, away, *told), rows=tuple(rows))


_OF_RANKING = ("auc", "gauc", "ndcg@10", "log_loss", "log_loss_of_rate", "calibration_error")


def span(interval: Interval, place: int, *, sign: str = "") -> str:
    """One metric's mean and interval: `.1234 [.1200, .1270]`."""
    ends = f"[{interval.low[place]:{sign}.4f}, {interval.high[place]:{sign}.4f}]"
    return f"{interval.mean[place]:{sign}.4f} {ends}"


def compare(
    title: str,
    note: str,
    methods: Sequence[Method],
    *,
    users: NDArray[np.int64],
    reference: str,
    config: EvaluateConfig,
    headline: str = HEADLINE,
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
        headline=headline,
    )


def beyond_accuracy(
    methods: Sequence[Method],
    *,
    users: NDArray[np.int64],
    reference: str,
    config: EvaluateConfig,
) -> Compared:
    """Novelty, diversity and coverage of the methods' first ten."""
    return compare(
        "Beyond accuracy",
        "Of the first ten: novelty is the mean of -log2 of an item's share of the training events; "
        "diversity the mean distance of two of them (another category, or one less the cosine of "
        "the retriever's vectors); coverage the share of the catalogue in anybody's first ten.",
        [Method(m.name, m.beyond, {"coverage@10": m.coverage}) for m in methods],
        users=users,
        reference=reference,
        config=config,
        headline=next(iter(methods[0].beyond)),
    )


def as_json(
    tables: Sequence[Compared], facts: Mapping[str, Any], grids: Sequence[Grid] = ()
) -> str:
    """Everything, for programs.

    Args:
        grids: tables of text that are told as they are.
    """

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
    texts = [{"title": g.title, "head": g.head, "rows": g.rows} for g in grids]
    return json.dumps({"facts": facts, "tables": found, "grids": texts}, indent=1) + "\n"
