"""Plots are drawn of what was found, the same each time, and nothing of them lies outside."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from models.report import HEADLINE, Compared, EvaluateConfig, Method, compare
from models.reporting import plots
from models.slices import sliced

CONFIG = EvaluateConfig(num_samples=50)
USERS = np.repeat(np.arange(30), 3)
RNG = np.random.default_rng(1)
NAMES = ("of the moment", "1d old", "14d old", "no memory")


def table(names: tuple[str, ...] = NAMES) -> Compared:
    methods = [Method(name, {HEADLINE: RNG.random(len(USERS))}) for name in names]
    return compare("Title", "", methods, users=USERS, reference=names[0], config=CONFIG)


TABLE = table()
SLICED = sliced(
    HEADLINE,
    {name: RNG.random(len(USERS)) for name in ("Ebb", "item to item", "no memory")},
    {"activity": USERS % 2 + 1, "gap": USERS % 3, "new_items": USERS // 15},
    users=USERS,
    config=CONFIG,
)
DRAWN = {
    "methods": lambda path: plots.draw_methods(TABLE, path),
    "staleness": lambda path: plots.draw_staleness(TABLE, [0, 1, 14], path),
    "slices": lambda path: plots.draw_slices(SLICED, path),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_svg_and_the_same_each_time(tmp_path: Path, name: str):
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    DRAWN[name](one)
    DRAWN[name](two)
    assert ET.parse(one).getroot().tag.endswith("svg")
    assert one.read_bytes() == two.read_bytes()


def test_names_do_not_lie_over_one_another(tmp_path: Path):
    long = table(tuple(f"a method with a rather long name, number {n}" for n in range(12)))
    for figure in (
        plots.draw_methods(long, tmp_path / "methods.svg"),
        plots.draw_slices(SLICED, tmp_path / "slices.svg"),
    ):
        for axis in figure.axes:
            for labels in (axis.get_yticklabels(), axis.get_xticklabels()):
                boxes = [label.get_window_extent() for label in labels if label.get_text()]
                for number, box in enumerate(boxes):
                    assert not any(box.overlaps(other) for other in boxes[number + 1 :])
