"""Readings of memory to compare: in full, by level, none, another user's, and as it was days ago.

A gain that another user's memory also brings is no gain of memory: that is the placebo.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from models.config import format_duration, parse_duration
from models.evaluation import Reading
from models.examples import Examples, Ints
from models.features import LEVELS, UserSide
from models.memory import MemorySpec, user_features, views

PLACEBO = "another user's"
READINGS: dict[str, tuple[bool, bool, bool]] = {
    "none": (False, False, False),
    **{
        f"{name} only": (number == 0, number == 1, number == 2)
        for number, name in enumerate(LEVELS)
    },
    "all": (True, True, True),
}
"""Name to which of `LEVELS` may be read. The placebo reads all, of somebody else."""
_STALE = " old"


def stale(age_ms: int) -> str:
    """The name of the reading of a memory as it was so long before each request."""
    return f"{format_duration(age_ms)}{_STALE}"


def reading(examples: Examples, name: str, *, rows: Ints, memory: MemorySpec) -> Reading:
    """The reading of one name, for requests out of `rows`.

    Raises:
        ValueError: for a name that is not known.
    """
    if name == PLACEBO:
        return _placebo(examples, rows, memory)
    if name.endswith(_STALE):
        return _stale(examples, rows, memory, int(str(parse_duration(name.removesuffix(_STALE)))))
    if name not in READINGS:
        raise ValueError(f"no reading {name!r}; there are {', '.join([*READINGS, PLACEBO])}")
    return partial(_levels, examples, READINGS[name])


def _levels(examples: Examples, levels: tuple[bool, bool, bool], rows: Ints) -> UserSide:
    keep = torch.tensor(levels).expand(len(rows), len(LEVELS))
    return examples.user_side(rows).keep(keep)


def partners(examples: Examples, rows: Ints) -> Ints:
    """`(R,)` for each request another user with about as much memory at that moment.

    Requests are lined up by the number of events that their user had; the partner is the user of
    the nearest request in that line that is not one's own, on either side.

    Raises:
        ValueError: when all requests are of one user.
    """
    requests, histories = examples.requests, examples.histories
    users, moments = requests.user[rows], requests.as_of_ms[rows]
    pairs = zip(users.tolist(), moments.tolist(), strict=True)
    sizes = np.asarray([len(histories.seen(user, moment)) for user, moment in pairs])
    order = np.lexsort((users, sizes))
    lined = users[order]
    found = np.full(len(rows), -1)
    for shift in range(1, len(rows)):
        nobody = np.full(shift, -1)
        # The line has two ends: in a circle the heaviest user would get the lightest one's memory.
        for partner in (np.append(lined[shift:], nobody), np.append(nobody, lined[:-shift])):
            open_ = (found < 0) & (partner != lined) & (partner >= 0)
            found[open_] = partner[open_]
        if (found >= 0).all():
            return found[np.argsort(order)]
    raise ValueError("the placebo needs requests of at least two users")


def _placebo(examples: Examples, rows: Ints, memory: MemorySpec) -> Reading:
    return _another(
        examples,
        rows,
        memory,
        users=partners(examples, rows),
        until=examples.requests.as_of_ms[rows],
    )


def _stale(examples: Examples, rows: Ints, memory: MemorySpec, age_ms: int) -> Reading:
    """What had arrived by `age_ms` before each request, read at the request.

    The present session, if it is younger, is not in it.
    """
    requests = examples.requests
    until = requests.as_of_ms[rows] - age_ms
    return _another(examples, rows, memory, users=requests.user[rows], until=until)


def _another(
    examples: Examples, rows: Ints, memory: MemorySpec, *, users: Ints, until: Ints
) -> Reading:
    """The memory of other users `(R,)`, or of other moments `(R,)`, at the requests' moments."""
    now = examples.requests.as_of_ms[rows]
    read_as = views(examples.histories, users, until, spec=memory, now_ms=now)
    width = examples.requests.long.shape[1]
    long = np.concatenate([np.zeros((0, width), np.float32), *map(user_features, read_as)])
    place_of = {int(row): place for place, row in enumerate(rows)}

    def read(part: Ints) -> UserSide:
        places = np.asarray([place_of[int(row)] for row in part])
        side = examples.user_side(part, memory_of=users[places], known_at=until[places])
        return replace(side, long=torch.from_numpy(long[places]))

    return read
