"""Draws the pictures of `models/memory/README.md` from the library itself.

`python -m tests.models.memory.pictures` writes them again, the same to the byte.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from models import memory
from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import Histories, MemorySpec, MemoryView, StateSpec, ViewSpec, fold, views

FOLDER = Path(memory.__file__).parent / "pictures"
BEGIN = 19_688 * DAY_MS  # 27 November 2023
SPEC = MemorySpec(
    state=StateSpec(num_interests=4),
    view=ViewSpec(actions=("view",), half_lives=("1d", "7d", "30d"), fast="10d", slow="90d"),
)
BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#718096"


def events(days: np.ndarray, interest: np.ndarray | int, first_key: int = 1) -> Interactions:
    """Views at times in days, each of an interest."""
    made = np.zeros(len(days), INTERACTION)
    made["ts"] = BEGIN + np.sort(days) * DAY_MS
    made["event"] = first_key + np.arange(len(days))
    made["item"] = made["interest"] = interest
    made["action"] = ACTIONS["view"].code
    return made


def over(history: Interactions, days: np.ndarray) -> MemoryView:
    """The memory of one history, read at many times."""
    stored = Histories(pa.array(["ann"]), np.array([0, len(history)]), history, history["ts"])
    as_of = (BEGIN + days * DAY_MS).astype(np.int64)
    parts = list(views(stored, np.zeros(len(days), np.int64), as_of, spec=SPEC))
    columns = [vars(part) for part in parts]
    return MemoryView(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def ebb(rng: np.random.Generator) -> plt.Figure:
    """Two busy weeks, a silent month, a return."""
    every_other = np.arange(0, 14, 2)
    busy = np.concatenate([rng.uniform(d, d + 0.1, rng.integers(2, 6)) for d in every_other])
    history = events(np.concatenate([busy, [45.0, 45.02, 45.03]]), 1)
    days = np.linspace(0.01, 60, 900)
    seen = over(history, days)
    figure, (top, low) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 2))
    for column, (name, colour) in enumerate((("1 d", GREY), ("7 d", BLUE), ("30 d", GREEN))):
        top.plot(days, seen.counts[:, 0, column], color=colour, label=f"half-life {name}")
    top.plot(days, seen.power[:, 0], color=ORANGE, label="power law")
    top.plot((history["ts"] - BEGIN) / DAY_MS, np.full(len(history), -0.6), "|", color="black")
    top.set_ylabel("views, decayed")
    top.legend(frameon=False, fontsize=8)
    low.plot(days, seen.dormancy, color=ORANGE, label="dormancy")
    low.plot(days, seen.tempering, color=BLUE, label="weight of long memory on return")
    low.set_ylim(-0.05, 1.05)
    low.set_xlabel("days")
    low.legend(frameon=False, fontsize=8)
    return figure


def drift(rng: np.random.Generator) -> plt.Figure:
    """A client who looks for designers until day 60, then for accountants."""
    times = np.sort(rng.uniform(0, 110, 160))
    interest = np.where(times < 60, rng.choice([1, 1, 1, 2], 160), rng.choice([3, 3, 3, 2], 160))
    days = np.linspace(0.5, 110, 500)
    seen = over(events(times, interest), days)
    figure, (top, low) = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, height_ratios=(3, 2))
    names = {1: ("design", BLUE), 2: ("writing", GREY), 3: ("accounting", ORANGE)}
    for bucket, (name, colour) in names.items():
        top.plot(days, seen.fast[:, bucket], color=colour, label=f"{name}, of late")
        top.plot(days, seen.slow[:, bucket], color=colour, linestyle=":", label="over the years")
    top.set_ylabel("share of interest")
    top.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")
    top.set_ylim(0, 1.25)
    low.plot(days, seen.drift_cosine, color=GREEN, label="drift (cosine)")
    low.plot(days, seen.drift_jensen_shannon, color=GREY, label="drift (Jensen–Shannon)")
    _planted(top, low)
    low.set_xlabel("days")
    low.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _planted(*axes: Axes) -> None:
    for axis in axes:
        axis.axvline(60, color="black", linewidth=0.8, linestyle="--")


def forgotten(rng: np.random.Generator) -> plt.Figure:
    """A birthday present that is forgotten on day 30: what remains never knew it."""
    tents = events(rng.uniform(0, 50, 40), 1)
    present = events(rng.uniform(18, 20, 25), 2, first_key=1000)
    everything = np.concatenate([tents, present])
    everything = everything[np.lexsort((everything["event"], everything["ts"]))]
    rest = everything[everything["item"] != 2]
    assert fold(rest, SPEC.state) == fold(tents, SPEC.state)
    days = np.linspace(0.5, 50, 400)
    kept, without = over(everything, days), over(rest, days)
    figure, axis = plt.subplots(figsize=(8, 2.8))
    axis.plot(days, kept.fast[:, 2], color=GREY, linestyle=":", label="presents, had they stayed")
    held = np.where(days < 30, kept.fast[:, 2], without.fast[:, 2])
    axis.plot(days, held, color=ORANGE, label="presents")
    own = np.where(days < 30, kept.fast[:, 1], without.fast[:, 1])
    axis.plot(days, own, color=BLUE, label="tents")
    axis.axvline(30, color="black", linewidth=0.8, linestyle="--")
    axis.set_xlabel("days")
    axis.set_ylabel("share of interest, of late")
    axis.legend(frameon=False, fontsize=8)
    return figure


PICTURES = {"ebb": ebb, "drift": drift, "forgotten": forgotten}


def draw(folder: Path) -> None:
    """All pictures, as SVG."""
    mpl.use("svg")
    style = {
        "svg.hashsalt": "ebb",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(style):
        for number, (name, paint) in enumerate(PICTURES.items()):
            figure = paint(np.random.default_rng(number))
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    draw(FOLDER)
