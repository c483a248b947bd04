"""An evaluation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.report import Grid


def as_markdown(
    grids: Sequence[Grid], facts: Mapping[str, Any], plots: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """Everything, for people.

    Args:
        facts: told as a list; `name` is in the heading.
        plots: title of a table to the plots that follow it, each `(file, what it shows)`.
    """
    lines = [f"# Evaluation of {facts['name']}", ""]
    lines += [f"* {key}: {value}" for key, value in facts.items() if key != "name"]
    for grid in grids:
        lines += ["", f"## {grid.title}", "", *([grid.note, ""] if grid.note else [])]
        lines += _table(grid)
        for file, shows in plots.get(grid.title, ()):
            lines += ["", f"![{shows}]({file})"]
    return "\n".join(lines) + "\n"


def _table(grid: Grid) -> list[str]:
    return [
        _line(grid.head),
        _line(["---", *["---:"] * (len(grid.head) - 1)]),
        *(_line(row) for row in grid.rows),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
