"""Examples: requests that point into histories, gathered into batches of tensors.

R requests in all, B in a batch, L interactions, F numbers of the user level, X context fields,
P outcomes, O outcome heads, C candidates, S items of a slate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import leave_one_out
from models.catalogue import Catalogue
from models.events import POLARITY
from models.features import FeatureConfig, PopularityTable, UserSide, context_codes, user_side
from models.mapping import CONTEXT
from models.memory import Histories, MemorySpec, Popularity
from models.retrieval.successors import SuccessorConfig, Successors

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
    shown: Shown | None = None
    """What was shown at each request; None where the log has no impressions."""

    def __len__(self) -> int:
        return len(self.user)

    def pairs(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.uint8]]:
        """The outcomes of requests `(B,)`: number in `rows`, place, label bits; `(P,)` each."""
        which, _, found = spread(self.offsets, rows)
        return which, self.outcomes[found], self.labels[found]

    def slates(self, rows: Ints) -> Slates:
        """What was shown at requests `(B,)`; of width 0 where nothing was at any of them."""
        if self.shown is None:
            size = (len(rows), 0)
            return Slates(np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, "f4"))
        return self.shown.slates(rows)


@dataclass(frozen=True)
class Slates:
    """What was shown at B requests, S at most."""

    places: Ints
    """`(B, S)` in the order of position, 0 after the last."""
    positions: NDArray[np.int32]
    """`(B, S)` as the log has them, -1 after the last."""
    propensities: NDArray[np.float32]
    """`(B, S)` chance of each to be shown where it was; nan for unknown and after the last."""


@dataclass(frozen=True)
class Shown:
    """What was shown at R requests, N items in all; a request may have none."""

    places: Ints
    """`(N,)` places, request after request."""
    positions: NDArray[np.int32]
    """`(N,)` where each stood."""
    propensities: NDArray[np.float32]
    """`(N,)` chance of each to be shown there; nan for unknown."""
    offsets: Ints
    """`(R + 1,)` where each request's slate begins."""

    def slates(self, rows: Ints) -> Slates:
        """The slates of requests `(B,)`, padded to the longest."""
        which, inside, found = spread(self.offsets, rows)
        width = int(inside.max()) + 1 if len(inside) else 0

        def padded(values: NDArray[Any], nothing: float) -> NDArray[Any]:
            full = np.full((len(rows), width), nothing, values.dtype)
            full[which, inside] = values[found]
            return full

        return Slates(
            places=padded(self.places, 0),
            positions=padded(self.positions, -1),
            propensities=padded(self.propensities, np.nan),
        )


def spread(offsets: Ints, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """All that lies between the offsets of rows `(B,)`: number in `rows`, number in its row, place.

    `(N,)` each.
    """
    lengths = offsets[rows + 1] - offsets[rows]
    which = np.repeat(np.arange(len(rows)), lengths)
    first = np.cumsum(lengths) - lengths
    inside = np.arange(len(which)) - first[which]
    return which, inside, offsets[rows][which] + inside


def requests_of(
    table: pa.Table, *, histories: Histories, catalogue: Catalogue, features: FeatureConfig
) -> Requests:
    """The requests of a table in `models.requests.request_schema`, in its order.

    Items that the catalogue does not have are left out of the outcomes and of the slates.
    """
    users = pc.index_in(table["user_id"], value_set=histories.users)
    places, offsets = _places(table["items"], catalogue)
    long = table["user_features"].combine_chunks()
    context = [table[CONTEXT + name].to_pylist() for name in features.context]
    return Requests(
        user=pc.fill_null(users, -1).to_numpy().astype(np.int64),
        as_of_ms=table["as_of"].to_numpy(),
        session=table["session"].to_numpy(),
        long=long.flatten().to_numpy().reshape(len(table), -1),
        context=context_codes(context, features, num=len(table)),
        outcomes=places[places > 0],
        labels=_flat(table["labels"]).astype(np.uint8)[places > 0],
        offsets=offsets,
        shown=_shown(table, catalogue) if "shown" in table.column_names else None,
    )


def _shown(table: pa.Table, catalogue: Catalogue) -> Shown:
    """The slates of a table of requests."""
    places, offsets = _places(table["shown"], catalogue)
    positions, propensities = _flat(table["positions"]), _flat(table["propensities"])
    if not len(places) == len(positions) == len(propensities):
        raise ValueError(
            f"requests: {len(places)} items were shown at {len(positions)} positions with "
            f"{len(propensities)} propensities; the lists of a request must be of one length"
        )
    return Shown(
        places=places[places > 0],
        positions=positions.astype(np.int32)[places > 0],
        propensities=propensities.astype(np.float32)[places > 0],
        offsets=offsets,
    )


def _places(keys: pa.ChunkedArray, catalogue: Catalogue) -> tuple[Ints, Ints]:
    """The place of every key in lists of them, 0 for unknown ones; offsets without those."""
    places = catalogue.places(_flat(keys).astype(np.uint64))
    lengths = pc.fill_null(pc.list_value_length(keys.combine_chunks()), 0).to_numpy()
    kept = np.append(0, np.cumsum(places > 0))[np.append(0, np.cumsum(lengths))]
    return places, kept.astype(np.int64)


def _flat(column: pa.ChunkedArray) -> NDArray[np.generic]:
    values: NDArray[np.generic] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values


class Examples:
    """Gathers batches: the memory of each request from histories stored once.

    Args:
        trains: `(N,)` the events that item memory holds at every moment, where there is no common
            time (`models.leave_one_out`); None: at each moment those that had arrived.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        histories: Histories,
        catalogue: Catalogue,
        features: FeatureConfig,
        memory: MemorySpec,
        trains: Bools | None = None,
    ) -> None:
        self.requests, self.histories, self.catalogue = requests, histories, catalogue
        self.features, self.memory = features, memory
        self.places = catalogue.places(histories.interactions["item"])
        self.trains = trains
        self.item_memory = (
            fold_popularity(histories, self.places, len(catalogue), features.popularity_step)
            if trains is None
            else leave_one_out.item_memory(histories, trains, self.places, len(catalogue))
        )
        self.popularity = PopularityTable(self.item_memory, features.popularity_half_lives)

    def user_side(
        self, rows: Ints, *, memory_of: Ints | None = None, known_at: Ints | None = None
    ) -> UserSide:
        """The user side of requests `(B,)`. The user level is `Requests.long` in any case.

        Args:
            memory_of: `(B,)` rows of the histories to read instead of the requests' own users.
            known_at: `(B,)` moments; the memory is what had arrived before them, read at the
                requests' moments all the same. None: those moments.
        """
        requests = self.requests
        now = requests.as_of_ms[rows]
        users = requests.user[rows] if memory_of is None else memory_of
        until = now if known_at is None else known_at
        ring = self.histories.ring_rows(users, until, self.memory.state)
        interactions = self.histories.interactions[ring]
        interactions[ring < 0] = 0
        return user_side(
            interactions,
            item=self.places[ring],
            now_ms=now,
            session=requests.session[rows],
            long=requests.long[rows],
            context=requests.context[rows],
            view=self.memory.view,
            features=self.features,
        )

    def seen(self, rows: Ints) -> Tensor:
        """`(B, K)` places of all that each request's user met before it, 0 after the last.

        The whole history, not only what the ring still holds.
        """
        users, as_of = self.requests.user[rows], self.requests.as_of_ms[rows]
        known = np.flatnonzero(users >= 0)
        which, _, events = spread(self.histories.offsets, users[known])
        which = known[which]
        met = (self.histories.arrived[events] < as_of[which]) & (self.places[events] > 0)
        which, items = which[met], self.places[events[met]]
        inside = np.arange(len(which)) - np.searchsorted(which, which)
        found = np.zeros((len(rows), int(inside.max(initial=-1)) + 1), np.int64)
        found[which, inside] = items
        return torch.from_numpy(found)

    def successors(self, config: SuccessorConfig, *, until_ms: int | None) -> Successors | None:
        """What follows what in all that had arrived before a moment; None: in all there is.

        Where there is no common time, in the events that train.
        """
        if not config.window:
            return None
        arrived, records = self.histories.arrived, self.histories.interactions
        some = np.ones(len(arrived), bool) if until_ms is None else arrived < until_ms
        some = (some if self.trains is None else self.trains) & (POLARITY[records["action"]] > 0)
        owner = np.repeat(np.arange(len(self.histories.users)), np.diff(self.histories.offsets))
        return Successors.fold(
            owner[some],
            self.places[some],
            records["ts"][some],
            num_places=len(self.catalogue),
            config=config,
        )

    def labels(self, rows: Ints, candidates: Tensor, num_heads: int) -> Tensor:
        """`(B, C, O)` 0 or 1 for candidates `(B, C)` of requests `(B,)`."""
        which, items, bits = self.requests.pairs(rows)
        dense = torch.zeros(len(rows), len(self.catalogue), dtype=torch.uint8)
        dense[which, items] = torch.from_numpy(bits)
        dense[:, 0] = 0
        found = dense.gather(1, candidates)
        return torch.stack([(found >> head) & 1 for head in range(num_heads)], 2).float()


def fold_popularity(
    histories: Histories, places: Ints, num_places: int, step_ms: int
) -> Popularity:
    """What items remember of all histories: events of interest, in the step they arrived."""
    spoken = (POLARITY[histories.interactions["action"]] > 0) & (places > 0)
    return Popularity.fold(histories.arrived[spoken], places[spoken], num_places, step_ms)
