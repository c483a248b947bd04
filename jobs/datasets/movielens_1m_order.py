"""MovieLens-1M as an order of films without times, in the split of gSASRec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from jobs import console

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = Path("../shared/data/movielens_1m_order")
STEP_MS: Final = 60_000
"""Between one film and the next; `memory.view.session_gap` in the document lies below, so that no
sessions are made up."""


def main(
    source: Annotated[Path, typer.Option(help="The folder of the data set.")] = SOURCE,
    to: Annotated[Path, typer.Option(help="The folder for the events.")] = Path(
        "runs/movielens_1m_order/source"
    ),
) -> None:
    """Writes the ratings as events, for configs/movielens_1m_order.yaml to read.

    \b
    Examples:
      python -m jobs.datasets.movielens_1m_order
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    from jobs.datasets.sequences import lines_of, write

    events = convert(
        train=lines_of(source / "train" / "input.txt.xz"),
        validate=lines_of(source / "val" / "input.txt.xz"),
        validate_next=lines_of(source / "val" / "output.txt"),
        test_next=lines_of(source / "test" / "output.txt"),
    )
    console.out.print(f"{len(events):,} events: {write(events, to)}", soft_wrap=True)


def convert(
    *, train: list[str], validate: list[str], validate_next: list[str], test_next: list[str]
) -> pa.Table:
    """Events of the four files; users are numbered by their line in `train`.

    The files hold each user's films but for the last two (`train`) and the last (`test_next`), in
    one order. Of 512 users, who validate in gSASRec, the last three are taken from `train`:
    `validate` has their films up to the third-last, `validate_next` the second-last. Of all others
    the second-last is in no file.

    Raises:
        ValueError: when the files do not belong together.
    """
    import numpy as np

    from jobs.datasets.sequences import events_of

    if len(test_next) != len(train) or len(validate_next) != len(validate):
        raise ValueError(
            f"{len(train)} users in train, {len(test_next)} in test, {len(validate)} and "
            f"{len(validate_next)} in validation: these files are not of one split"
        )
    items = [line.split() for line in train]
    place = {tuple(own): user for user, own in enumerate(items)}
    for line, film in zip(validate, validate_next, strict=True):
        own = line.split()
        user = place.get(tuple(own[:-1]))
        if user is None:
            raise ValueError(f"no line of train begins the line of validation {line[:60]!r} ...")
        items[user] = [*own, film.strip()]
    items = [[*own, film.strip()] for own, film in zip(items, test_next, strict=True)]
    times = [np.arange(len(own)) * STEP_MS for own in items]
    return events_of([str(1 + user) for user in range(len(items))], items, times)


if __name__ == "__main__":
    console.run(main)
