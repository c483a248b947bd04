"""Where memory helps: requests in slices, by what was known of their user and what they wanted.

R requests, P wanted items of all requests together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.examples import Examples, Ints
from models.metrics.bootstrap import Interval, by_user, paired_difference
from models.metrics.retrieval import Positives
from models.report import EvaluateConfig, Grid, Trait, span

Floats = NDArray[np.float64]

FEWEST_USERS: Final = 10
"""A slice with fewer says nothing, and is left out."""
HOUR_MS: Final = DAY_MS // 24


@dataclass(frozen=True)
class Cut:
    """How requests are told apart by one trait."""

    title: str
    labels: tuple[str, ...]


TRAITS: Final[dict[Trait, Cut]] = {
    "activity": Cut("events known", ("0", "1 to 4", "5 to 19", "20 to 99", "100 and more")),
    "gap": Cut(
        "since the last event",
        ("no event", "under 1 h", "1 h to 1 d", "1 to 7 d", "7 to 30 d", "30 d and more"),
    ),
    "tenure": Cut(
        "since the first event",
        ("no event", "under 1 d", "1 to 30 d", "30 to 180 d", "180 d and more"),
    ),
    "new_items": Cut("wanted items", ("all in training", "some new since")),
}
_EDGES: Final[dict[Trait, list[int]]] = {
    "activity": [1, 5, 20, 100],
    "gap": [0, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS],
    "tenure": [0, DAY_MS, 30 * DAY_MS, 180 * DAY_MS],
}


def traits(
    examples: Examples, rows: Ints, wanted: Positives, trained: Ints, names: Sequence[Trait]
) -> dict[Trait, Ints]:
    """`(R,)` the slice of each request by each trait, a place in the labels of `TRAITS`.

    Args:
        trained: `(I,)` training events of each place of the catalogue.
    """
    requests, histories = examples.requests, examples.histories
    users, moments = requests.user[rows], requests.as_of_ms[rows]
    num, gap, tenure = (np.full(len(rows), value) for value in (0, -1, -1))
    for place, (user, moment) in enumerate(zip(users.tolist(), moments.tolist(), strict=True)):
        seen = histories.seen(user, moment) if user >= 0 else histories.interactions[:0]
        num[place] = len(seen)
        if len(seen):
            gap[place], tenure[place] = moment - seen["ts"][-1], moment - seen["ts"][0]
    measures = {"activity": num, "gap": gap, "tenure": tenure}
    found: dict[Trait, Ints] = {}
    for name in names:
        if name == "new_items":
            fresh = trained[wanted.items] == 0
            found[name] = np.logical_or.reduceat(fresh, wanted.offsets[:-1]).astype(np.int64)
        else:
            found[name] = np.searchsorted(_EDGES[name], measures[name], side="right")
    return found


@dataclass(frozen=True)
class Slice:
    """The requests of one slice, and how the methods stand there."""

    trait: Trait
    label: str
    num_requests: int
    num_users: int
    intervals: tuple[Interval, ...]
    """Of the headline metric, for each method."""
    difference: Interval
    """The first method less the second."""


@dataclass(frozen=True)
class Sliced:
    """All slices with enough users."""

    metric: str
    names: tuple[str, ...]
    slices: tuple[Slice, ...]

    def grid(self) -> Grid:
        """As text."""
        head = ("slice", "requests", "users", *self.names, f"{self.names[0]} less {self.names[1]}")
        rows = tuple(
            (
                f"{TRAITS[one.trait].title}: {one.label}",
                f"{one.num_requests:,}",
                f"{one.num_users:,}",
                *(span(interval, 0) for interval in one.intervals),
                span(one.difference, 0, sign="+"),
            )
            for one in self.slices
        )
        note = (
            f"{self.metric} where much or little was known of the user, and of what was wanted. "
            f"Slices of fewer than {FEWEST_USERS} users are left out."
        )
        return Grid("Slices", note, head, rows)


def sliced(
    metric: str,
    values: Mapping[str, Floats],
    by_trait: Mapping[Trait, Ints],
    *,
    users: Ints,
    config: EvaluateConfig,
) -> Sliced:
    """The methods in every slice.

    Args:
        values: name to `(R,)` of the metric; the first two are also compared.
        users: `(R,)`.
    """
    options = {"num_samples": config.num_samples, "seed": config.seed}
    columns = [each[:, None] for each in values.values()]
    found = []
    for trait, of in by_trait.items():
        for number, label in enumerate(TRAITS[trait].labels):
            mask = of == number
            num_users = len(np.unique(users[mask]))
            if num_users < FEWEST_USERS:
                continue
            own = [column[mask] for column in columns]
            found.append(
                Slice(
                    trait,
                    label,
                    int(mask.sum()),
                    num_users,
                    tuple(by_user(each, users[mask], **options) for each in own),
                    paired_difference(own[0], own[1], users[mask], **options),
                )
            )
    return Sliced(metric, tuple(values), tuple(found))
