"""Amazon Beauty, 5-core, as the papers on sequences use it: a line a user, with gaps in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import console

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = Path("../shared/data/amazon_beauty/beauty_time_gaps.txt.xz")


def main(
    source: Annotated[Path, typer.Option(help="The file of the data set.")] = SOURCE,
    to: Annotated[Path, typer.Option(help="The folder for the events.")] = Path(
        "runs/amazon_beauty/source"
    ),
) -> None:
    """Writes the reviews as events, for configs/amazon_beauty.yaml to read.

    \b
    Examples:
      python -m jobs.datasets.amazon_beauty
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from jobs.datasets.sequences import lines_of, write

    events = convert(lines_of(source))
    console.out.print(f"{len(events):,} events: {write(events, to)}", soft_wrap=True)


def convert(lines: list[str]) -> pa.Table:
    """Events of lines `user item item ...<TAB>gap gap ...`, a gap for each item, 0 for the first.

    Gaps are known to the day, and half of them are 0. An event lies one millisecond further for
    each that its user had before, so that the order of the file is kept.

    Raises:
        ValueError: naming the line that is not of that form.
    """
    import numpy as np

    from jobs.datasets.sequences import events_of

    users, items, times = [], [], []
    for number, line in enumerate(lines, start=1):
        left, _, right = line.partition("\t")
        user, *own = left.split() or [""]
        gaps = right.split()
        if not own or len(gaps) != len(own) or not all(gap.isdigit() for gap in gaps):
            raise ValueError(
                f"line {number}: {len(own)} items and {len(gaps)} gaps; a line is a user, items, "
                "a tab and as many gaps in whole seconds"
            )
        users.append(user)
        items.append(own)
        times.append(np.cumsum(np.asarray(gaps, np.int64)) * 1000 + np.arange(len(own)))
    return events_of(users, items, times)


if __name__ == "__main__":
    console.run(main)
