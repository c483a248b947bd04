"""The rows of events that say a fact. They come along with a snapshot, other rows do not.

A state keeps the newest facts only. When one of those is forgotten with its item, an older one that
was pruned speaks again; to know it, a store needs the row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.events import Interactions
from models.memory.facts import Fact, facts_of
from models.memory.ring import is_said
from models.stores.rows import to_batch


def rows_of(history: Interactions, bodies: Sequence[bytes]) -> list[bytes]:
    """The JSON rows of the facts among events `(N,)`, as far as they are there."""
    said = np.flatnonzero(is_said(history)).tolist()
    return [bodies[row] for row in said if bodies[row]]


def facts_in(rows: Sequence[bytes]) -> list[Fact]:
    """What the rows say."""
    return facts_of(pa.Table.from_batches([to_batch(rows)])) if rows else []


def bodies_of(history: Interactions, rows: Sequence[bytes]) -> list[bytes]:
    """The reverse of `rows_of`: `(N,)` bodies, empty where no row is given."""
    if not rows:
        return [b""] * len(history)
    known = dict(zip((fact.event for fact in facts_in(rows)), rows, strict=True))
    return [known.get(event, b"") for event in history["event"].tolist()]
