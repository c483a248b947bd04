"""The protocol of the papers on sequences: of each user the last event of interest is the test.

The one before it is for validation, and all earlier ones train. Users' pasts overlap in no order
that could be kept apart, so there is no common time: every item of the catalogue is known at every
moment, and what items remember is what the training events say, the same at all moments.

K events of interest, N events of some users in history order, U users, I places of the catalogue.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import POLARITY
from models.memory import Histories, Popularity

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEWEST: Final = 3
"""Events of interest from which a user has a test; one with fewer only trains."""
AEON_MS: Final = 36_500 * DAY_MS
"""A step of item memory so long that all moments from 1970 to 2069 lie in it: step 0."""
TRAIN, VALIDATE, TEST, NONE = 0, 1, 2, -1


def splits(owner: Ints, target: Bools) -> Ints:
    """`(K,)` the place of each event in `models.requests.SPLITS`; -1 where it may be in none.

    A function of one user's own events. What lies beside a user's validation and test events, or
    between them, would train on a memory that holds the answer, so it is in no split.

    Args:
        owner: `(K,)` the user of each event, ascending; a user's events in their order.
        target: `(K,)` the event has the target label: only these are held back.
    """
    if not len(owner):
        return np.zeros(0, np.int64)
    hits = np.append(0, np.cumsum(target))
    end = np.searchsorted(owner, owner, side="right")
    begin = np.searchsorted(owner, owner, side="left")
    left = hits[end] - hits[:-1]  # of the target, this event and those after it
    found = np.where((left > 2) | ((left == 2) & ~target), TRAIN, NONE)
    found = np.where(target & (left == 2), VALIDATE, found)
    found = np.where(target & (left == 1), TEST, found)
    return np.where(hits[end] - hits[begin] < FEWEST, TRAIN, found)


def training_events(histories: Histories, users: Ints, held_ms: Ints) -> Bools:
    """`(N,)` the events from before anything of their user that was held back.

    Args:
        users: `(R,)` rows of the histories, of the requests that validate and test.
        held_ms: `(R,)` their moments.
    """
    ends = np.full(len(histories.users), np.iinfo(np.int64).max)
    np.minimum.at(ends, users[users >= 0], held_ms[users >= 0])
    return histories.interactions["ts"] < np.repeat(ends, np.diff(histories.offsets))


def item_memory(histories: Histories, trains: Bools, places: Ints, num_places: int) -> Popularity:
    """What items remember of the training events: one step that lies before every moment.

    Args:
        trains: `(N,)` of `training_events`.
        places: `(N,)` of the events' items, 0 for unknown.
    """
    spoken = trains & (POLARITY[histories.interactions["action"]] > 0) & (places > 0)
    counts = np.bincount(places[spoken], minlength=num_places).astype(np.int32)
    return Popularity(first=-1, counts=counts[None], step_ms=AEON_MS)


def always_known(items: pa.Table) -> pa.Table:
    """The item table with all items as old as time, in an order that tells nothing of when."""
    column = items.schema.get_field_index("first_seen")
    kind = items.schema.field(column).type
    epoch = pa.array(np.zeros(len(items), np.int64)).cast(kind)
    return items.set_column(column, "first_seen", epoch).sort_by("item_id")
