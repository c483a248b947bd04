"""The same run under several seeds: the mean of its figures, and how far they lie apart.

S runs, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.report import Grid

Floats = NDArray[np.float64]
SAME = ("requests", "users", "request digest", "split")
"""Facts that runs must share to be one experiment."""


@dataclass(frozen=True)
class Spread:
    """The figures of each method over S runs."""

    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    figures: dict[str, Floats]
    """Method to `(S, M)`."""

    def grid(self) -> Grid:
        """As text: mean, standard deviation of the runs, and their least and most."""
        rows = []
        for name, found in self.figures.items():
            cells = [
                f"{column.mean():.4f} ± {column.std(ddof=1):.4f} "
                f"({column.min():.4f} to {column.max():.4f})"
                for column in found.T
            ]
            rows.append((name, *cells))
        note = (
            f"The same configuration under the seeds {', '.join(map(str, self.seeds))}: mean ± "
            "standard deviation of the runs (least to most). Baselines draw nothing, or little."
        )
        return Grid(f"{len(self.seeds)} seeds", note, ("method", *self.metrics), tuple(rows))


def spread(reports: Mapping[str, dict[str, Any]], *, title: str) -> Spread:
    """The table `title` of several reports as one.

    Args:
        reports: folder of each run to what `models.report.as_json` said of it.

    Raises:
        ValueError: naming the run that measured other requests or has a seed that another one had.
    """
    first = next(iter(reports))
    facts = reports[first]["facts"]
    seeds: list[int] = []
    for name, report in reports.items():
        theirs = report["facts"]
        other = [key for key in SAME if theirs.get(key) != facts.get(key)]
        if other:
            raise ValueError(
                f"evaluate.seeds: {name} differs from {first} in {', '.join(other)}: evaluate "
                "runs of one document that differ in train.seed alone"
            )
        seeds.append(int(theirs.get("seed", -1)))
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"evaluate.seeds: {name} was trained with the seed {seeds[-1]}, as another run "
                "was: give each its own, with --set train.seed=..."
            )
    tables = [_table(report, title) for report in reports.values()]
    names = [n for n in tables[0] if all(n in table for table in tables)]
    metrics = tuple(tables[0][names[0]])
    figures = {
        name: np.asarray([[table[name][m][0] for m in metrics] for table in tables])
        for name in names
    }
    return Spread(tuple(seeds), metrics, figures)


def _table(report: dict[str, Any], title: str) -> dict[str, dict[str, Sequence[float]]]:
    found = next(table for table in report["tables"] if table["title"] == title)
    return {name: method["mean_low_high"] for name, method in found["methods"].items()}
