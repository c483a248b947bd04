"""One part of the users: from their rows to histories, states and requests.

Everything here is a function of the rows of some users; every user lies in one part. What a user's
rows give depends on no other user, so parts can be made one by one, and again when rows come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.events import Interactions, Interests
from models.keys import keys_of
from models.memory import Fact, Histories, MemorySpec, states
from models.records import distinct, facts_in, in_order, interactions, is_fact, packed
from models.requests import SPLITS, Known, RequestConfig, request_table

Ints = NDArray[np.int64]
COUNTS = ("num", "late", *SPLITS)
"""Of each user: distinct events, those that arrived after a younger one, requests by split."""


@dataclass(frozen=True)
class Part:
    """What `partition` makes of the rows of some users."""

    histories: Histories
    """Without facts: they are no interactions."""
    users: pa.Table
    """A row per user, sorted: `user_id`, `COUNTS`, the bytes of its `state`."""
    rows: pa.Table
    """Distinct rows, user after user, in each user by `(ts, event)`; without `user_id`."""
    requests: pa.Table
    """A row per request, in `models.requests.request_schema`."""
    num_duplicates: int


def part_of(user_id: pa.ChunkedArray, num_parts: int) -> Ints:
    """`(N,)` the part that each user lies in."""
    return (keys_of(user_id) % np.uint64(num_parts)).astype(np.int64)


def partition(
    rows: pa.Table,
    *,
    requests: RequestConfig,
    memory: MemorySpec,
    interests: Interests | None = None,
    before: tuple[pa.Table, pa.Table] | None = None,
) -> Part:
    """Histories, states and requests of all rows of some users.

    Args:
        rows: `models.records.pack` of good events, in any order, duplicates included.
        interests: item keys to interest buckets; a catalogue's.
        before: the distinct rows of an earlier build, and its requests, of users that have new
            rows. The result is that of all rows together.
    """
    whole = pa.concat_tables([before[0], rows]) if before else rows
    counts = distinct(whole)
    users, codes = _users(whole["user_id"])
    known = None
    if before:
        fresh = np.flatnonzero(counts)
        fresh = fresh[fresh >= len(before[0])]
        arrived = whole["arrived"].to_numpy()[fresh]
        known = Known(before[1], _earliest(codes[fresh], arrived, len(users)))
    kept = np.flatnonzero(counts)
    records = interactions(whole)[kept]
    if interests is not None:
        records["interest"] = interests(records["item"])
    order = in_order(codes[kept], records)
    codes, records = codes[kept][order], records[order]
    columns = whole.drop(["user_id", "record"]).take(pa.array(kept[order]))
    facts = is_fact(records)
    histories, own = _histories(users, codes, records, columns, ~facts)
    said = _facts(columns.filter(pa.array(facts)), codes[facts], users)
    asked = request_table(histories, own, requests, memory, known)
    return Part(
        histories=histories,
        users=_user_table(histories, codes, asked, states(histories, said, memory.state)),
        rows=columns.add_column(0, "record", packed(records)),
        requests=asked,
        num_duplicates=len(counts) - len(kept),
    )


def _users(user_id: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The users, sorted, and the place of each row's user among them."""
    encoded = pa.concat_arrays(user_id.chunks or [pa.array([], pa.string())]).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def _earliest(codes: Ints, arrived: Ints, num_users: int) -> Ints:
    """`(U,)` when the first of each user's rows arrived; those without rows never changed."""
    found = np.full(num_users, np.iinfo(np.int64).max)
    np.minimum.at(found, codes, arrived)
    return found


def _histories(
    users: pa.Array, codes: Ints, records: Interactions, columns: pa.Table, mask: NDArray[np.bool_]
) -> tuple[Histories, pa.Table]:
    """Interactions without the facts between them, and the other columns of these rows."""
    if not mask.all():
        codes, records, columns = codes[mask], records[mask], columns.filter(pa.array(mask))
    histories = Histories(
        users=users,
        offsets=np.searchsorted(codes, np.arange(len(users) + 1)).astype(np.int64),
        interactions=records,
        arrived=columns["arrived"].to_numpy(),
    )
    return histories, columns


def _facts(rows: pa.Table, codes: Ints, users: pa.Array) -> list[list[Fact]]:
    """What each user said, by rows that say something."""
    found: list[list[Fact]] = [[] for _ in range(len(users))]
    facts = facts_in(rows, users.take(pa.array(codes)))
    for user, fact in zip(codes.tolist(), facts, strict=True):
        found[user].append(fact)
    return found


def _user_table(
    histories: Histories, codes: Ints, requests: pa.Table, kept: pa.ChunkedArray
) -> pa.Table:
    num = len(histories.users)
    asking = pc.index_in(requests["user_id"], value_set=histories.users).to_numpy()
    split = pc.index_in(requests["split"], value_set=pa.array(SPLITS)).to_numpy()
    columns = {
        "user_id": histories.users,
        "num": np.bincount(codes, minlength=num),
        "late": _num_late(histories),
        **{
            name: np.bincount(asking[split == place], minlength=num)
            for place, name in enumerate(SPLITS)
        },
        "state": kept,
    }
    return pa.table(columns)


def _num_late(histories: Histories) -> Ints:
    """`(U,)` events of each user that arrived after a younger one."""
    num = np.zeros(len(histories.users), np.int64)
    for user in np.flatnonzero(histories.late):
        arrived = histories.arrived[histories.offsets[user] : histories.offsets[user + 1]]
        youngest = np.minimum.accumulate(arrived[::-1])[::-1]
        num[user] = (arrived[:-1] > youngest[1:]).sum()
    return num
