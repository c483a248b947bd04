"""The plots of an evaluation, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.report import Compared
from models.slices import TRAITS, Slice, Sliced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAD, QUIET, THIRD, INK, FAINT = "#1f6f8b", "#a9bec6", "#d98e4a", "#1c2b33", "#dde5e8"
_LOOK: Final[dict[Any, Any]] = {
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "ebb",  # the same figures give the same file
}
INTERVALS = "95 % intervals by bootstrap over users"


def draw_methods(table: Compared, path: Path) -> Figure:
    """The headline metric of each method, with its interval and its mean in figures."""
    place = table.metrics.index(table.headline)
    means = np.asarray([i.mean[place] for i in table.intervals])
    low = np.asarray([i.low[place] for i in table.intervals])
    high = np.asarray([i.high[place] for i in table.intervals])
    with _figure(7.6, 0.9 + 0.36 * len(means), path) as figure:
        axis = figure.subplots()
        rows = np.arange(len(means))[::-1]
        colours = [LEAD if n == table.reference else QUIET for n in table.names]
        axis.barh(rows, means, color=colours, height=0.62)
        ends = np.stack([means - low, high - means])
        axis.errorbar(means, rows, xerr=ends, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2)
        for row, mean, end in zip(rows, means, high, strict=True):
            label = f"  {mean:.4f}"  # the blanks keep it off the interval's end
            axis.text(float(end), float(row), label, va="center")
        axis.set_yticks(rows, list(table.names))
        axis.set_xlim(0, float(high.max()) * 1.16)
        axis.tick_params(axis="y", length=0)
        _plain(axis, f"{table.headline}, {INTERVALS}")
    return figure


def draw_staleness(table: Compared, days: Sequence[float], path: Path) -> Figure:
    """The headline metric against the age of memory.

    Args:
        table: methods from the youngest memory on, then no memory as the last.
        days: the age of each but the last.
    """
    place = table.metrics.index(table.headline)
    means, low, high = (
        np.asarray([getattr(i, name)[place] for i in table.intervals])
        for name in ("mean", "low", "high")
    )
    with _figure(7.6, 3.4, path) as figure:
        axis = figure.subplots()
        axis.axhspan(low[-1], high[-1], color=FAINT, zorder=0)
        axis.axhline(means[-1], color=QUIET, label=table.names[-1])
        axis.fill_between(days, low[:-1], high[:-1], color=LEAD, alpha=0.15, linewidth=0)
        axis.plot(days, means[:-1], color=LEAD, marker="o", label="memory of that age")
        axis.set_xticks(list(days), [f"{day:g}" for day in days])
        axis.set_ylim(0, float(high.max()) * 1.1)
        axis.set_ylabel(table.headline)
        axis.legend(frameon=False)
        _plain(axis, f"age of the memory in days; {INTERVALS}", upright=True)
    return figure


def draw_slices(found: Sliced, path: Path) -> Figure:
    """The methods in each slice, a panel a trait."""
    kinds = list(dict.fromkeys(one.trait for one in found.slices))
    columns = 2 if len(kinds) > 1 else 1
    rows = -(-len(kinds) // columns)
    with _figure(5.4 * columns, 3.1 * rows + 0.5, path) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axis, kind in zip(axes, kinds, strict=False):
            _panel(axis, [one for one in found.slices if one.trait == kind], found.names)
            axis.set_title(TRAITS[kind].title, loc="left")
        for axis in axes[len(kinds) :]:
            axis.set_axis_off()
        for first in axes[::columns]:
            first.set_ylabel(found.metric)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, ncols=len(labels), loc="outside upper left")
        figure.supxlabel(f"requests of each slice in brackets; {INTERVALS}", fontsize=10)
    return figure


def _panel(axis: Axes, slices: Sequence[Slice], names: Sequence[str]) -> None:
    """Points with intervals beside one another in each slice."""
    spots = np.arange(len(slices))
    for number, (name, colour) in enumerate(zip(names, (LEAD, THIRD, QUIET), strict=False)):
        own = [one.intervals[number] for one in slices]
        means, low, high = (
            np.asarray([getattr(i, end)[0] for i in own]) for end in ("mean", "low", "high")
        )
        at = spots + 0.2 * (number - (len(names) - 1) / 2)
        axis.errorbar(
            at,
            means,
            yerr=np.stack([means - low, high - means]),
            fmt="o",
            color=colour,
            markersize=5,
            elinewidth=1.6,
            label=name,
        )
    labels = [f"{one.label}\n({one.num_requests:,})" for one in slices]
    axis.set_xticks(spots, labels, fontsize=8)
    axis.set_xlim(-0.6, len(slices) - 0.4)
    axis.set_ylim(bottom=0)
    _plain(axis, "", upright=True)


def _plain(axis: Axes, label: str, *, upright: bool = False) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y" if upright else "x", color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel(label)


@contextmanager
def _figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    """A figure in our look, inches wide and high, written to a file when it is done."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_LOOK):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=120, metadata=metadata)
