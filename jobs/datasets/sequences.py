"""Files with a line a user, as papers on sequences share them, to events that `prepare` reads.

Such a file is no log: a row of it is a person, and the order within the line is all, or nearly all,
that is known of time. A mapping of columns cannot say that, so a command writes the events down
once, and a document names what it wrote like any other log.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]
BEGIN_MS: Final = 946_684_800_000
"""2000-01-01, when every user begins: true dates are not known."""


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, which may be packed as `.xz`.

    Raises:
        ValueError: when it is not there, is empty, or cannot be unpacked.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: say with --source where the data set lies")
    try:
        raw = path.read_bytes()
        lines = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode().splitlines()
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no text that can be read: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty")
    return lines


def events_of(
    users: Sequence[str], items: Sequence[Sequence[str]], after_ms: Sequence[Ints]
) -> pa.Table:
    """An event per item of each user, in order: `event_id`, `user_id`, `item_id`, `ts`.

    Args:
        items: of each user.
        after_ms: when each of them came after `BEGIN_MS`.

    Raises:
        ValueError: when times do not fit the items or do not rise: their order would be lost.
    """
    lengths = [len(own) for own in items]
    if [len(times) for times in after_ms] != lengths:
        raise ValueError("events_of: a user has more items than times, or fewer")
    for user, times in zip(users, after_ms, strict=True):
        if (np.diff(times) <= 0).any():
            raise ValueError(f"events_of: the times of user {user} do not rise")
    places = np.concatenate([np.arange(num) for num in lengths])
    return pa.table(
        {
            "event_id": [f"{place:05}" for place in places.tolist()],
            "user_id": np.repeat(np.asarray(users), lengths),
            "item_id": [item for own in items for item in own],
            "ts": pa.array(BEGIN_MS + np.concatenate(after_ms)).cast(pa.timestamp("ms", "UTC")),
        }
    )


def write(events: pa.Table, folder: Path) -> Path:
    """Writes `events.parquet` into a folder; a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / "events.parquet", folder / ".events.parquet"
    pq.write_table(events, part, compression="zstd")
    part.rename(path)
    return path
