"""Examples: requests that point into histories, gathered into batches of tensors.

R requests in all, B in a batch, L interactions, F numbers of the user level, X context fields,
P outcomes, O outcome heads, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalogue import Catalogue
from models.events import POLARITY
from models.features import FeatureConfig, PopularityTable, UserSide, user_side
from models.memory import Histories, Popularity, ViewSpec

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """R requests, by columns."""

    user: Ints
    """`(R,)` rows of the histories; -1 for a user without one."""
    as_of_ms: Ints
    """`(R,)` what had arrived before this moment may be seen."""
    session: NDArray[np.uint64]
    """`(R,)` key of the session that the request belongs to."""
    long: NDArray[np.float32]
    """`(R, F)` the user level of memory as of the request."""
    context: Ints
    """`(R, X)` hashed context values."""
    outcomes: Ints
    """`(P,)` places of items with an outcome, request after request."""
    labels: NDArray[np.uint8]
    """`(P,)` bit h set: head h happened."""
    offsets: Ints
    """`(R + 1,)` where each request's outcomes begin."""

    def __len__(self) -> int:
        return len(self.user)

    def pairs(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.uint8]]:
        """The outcomes of some requests: place in `rows`, item place, label bits; each `(P,)`."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        which = np.repeat(np.arange(len(rows)), lengths)
        first = np.cumsum(lengths) - lengths
        inside = np.arange(len(which)) - first[which]
        found = self.offsets[rows][which] + inside
        return which, self.outcomes[found], self.labels[found]


class Examples:
    """Gathers batches: the memory of each request from histories stored once."""

    def __init__(
        self,
        requests: Requests,
        *,
        histories: Histories,
        catalogue: Catalogue,
        features: FeatureConfig,
        view: ViewSpec,
    ) -> None:
        self.requests, self.histories, self.catalogue = requests, histories, catalogue
        self.features, self.view = features, view
        self.places = catalogue.places(histories.interactions["item"])
        self.popularity = PopularityTable(
            fold_popularity(histories, self.places, len(catalogue)),
            features.popularity_half_lives,
        )

    def user_side(self, rows: Ints, *, memory_of: Ints | None = None) -> UserSide:
        """The user side of requests `(B,)`.

        Args:
            memory_of: `(B,)` rows of the histories to read instead of the requests' own users:
                the placebo. The user level is then left as it is; see `Requests.long`.
        """
        requests = self.requests
        now = requests.as_of_ms[rows]
        users = requests.user[rows] if memory_of is None else memory_of
        ring = self.histories.ring_rows(users, now, self.features.history)
        interactions = self.histories.interactions[ring]
        interactions[ring < 0] = 0
        return user_side(
            interactions,
            item=self.places[ring],
            now_ms=now,
            session=requests.session[rows],
            long=requests.long[rows],
            context=requests.context[rows],
            view=self.view,
        )

    def labels(self, rows: Ints, candidates: Tensor, num_heads: int) -> Tensor:
        """`(B, C, O)` 0 or 1 for candidates `(B, C)` of requests `(B,)`."""
        which, items, bits = self.requests.pairs(rows)
        dense = torch.zeros(len(rows), len(self.catalogue), dtype=torch.uint8)
        dense[which, items] = torch.from_numpy(bits)
        dense[:, 0] = 0
        found = dense.gather(1, candidates)
        return torch.stack([(found >> head) & 1 for head in range(num_heads)], 2).float()


def fold_popularity(histories: Histories, places: Ints, num_places: int) -> Popularity:
    """What items remember of all histories: events of interest, by place in the catalogue."""
    spoken = (POLARITY[histories.interactions["action"]] > 0) & (places > 0)
    return Popularity.fold(histories.interactions["ts"][spoken], places[spoken], num_places)


def shuffled(num_rows: int, batch: int, generator: np.random.Generator) -> Sequence[Ints]:
    """All rows once, in random batches of `batch`."""
    order = generator.permutation(num_rows)
    return [order[i : i + batch] for i in range(0, num_rows, batch)]
