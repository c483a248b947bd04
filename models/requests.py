"""From the events of some users to their histories and to the requests made of them.

A request is a moment at which something was wanted (`as_of`), and what came of it. It sees exactly
the events that had *arrived* strictly before that moment, read by the same function of memory that
serves a live request. All here is on one part of the users; every user lies in one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator, model_validator

from models.config import Config
from models.events import ACTIONS, INTERACTION, STATE, Interests, encode
from models.mapping import CONTEXT
from models.memory import (
    Fact,
    Histories,
    MemorySpec,
    StateSpec,
    fold,
    user_feature_names,
    user_features,
    views,
)
from models.memory import encode as encode_state
from models.memory.facts import facts_of
from models.memory.sessions import starts

SPLITS = ("train", "validate", "test")
_NEVER = np.iinfo(np.int64).max


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]
"""A moment; without a zone it is UTC."""


class RequestConfig(Config):
    """What counts as a request, what as its outcome, and which requests train, choose and judge."""

    per: Literal["session", "event"] = "session"
    """`session`: one request where a session begins, with all that came of the session.
    `event`: one request at every event that has a label."""
    labels: tuple[str, ...] = Field(min_length=1, max_length=8)
    """Actions along the funnel; the ranker has a head for each."""
    target: str
    """The label that makes an item a retrieval positive; by default the last."""
    validate_from: UtcTime
    test_from: UtcTime
    warmup: UtcTime | None = None
    """No requests before this moment: histories are still empty."""
    context: tuple[str, ...] = ()
    """Fields known when the request is made, taken from its first event."""

    @model_validator(mode="before")
    @classmethod
    def _last_label(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("target") is None and given.get("labels"):
            return {**given, "target": given["labels"][-1]}
        return given

    @field_validator("labels")
    @classmethod
    def _known(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in labels if name not in ACTIONS]
        if unknown or len(set(labels)) < len(labels):
            raise ValueError(
                f"distinct actions are needed; unknown: {unknown}; there are {', '.join(ACTIONS)}"
            )
        return labels

    @model_validator(mode="after")
    def _ordered(self) -> RequestConfig:
        if self.target not in self.labels:
            raise ValueError(f"target {self.target!r} is not among the labels {self.labels}")
        begin = self.warmup or datetime.min.replace(tzinfo=UTC)
        if not begin < self.validate_from < self.test_from:
            raise ValueError("the order in time must be warmup, validate_from, test_from")
        return self

    def split_of(self, as_of_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place in `SPLITS` of each moment; any shape."""
        edges = [_ms(self.validate_from), _ms(self.test_from)]
        return np.searchsorted(edges, as_of_ms, side="right")

    def known_until(self, split: NDArray[np.int64]) -> NDArray[np.int64]:
        """When each split ends: an outcome that arrives later was not known to it."""
        ends = np.asarray([_ms(self.validate_from), _ms(self.test_from), _NEVER])
        return ends[split]


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


@dataclass(frozen=True)
class Part:
    """What `partition` makes of one part of the users."""

    histories: Histories
    users: pa.Table
    """A row per user: `user_id`, the history as lists, the bytes of its state."""
    requests: pa.Table
    """A row per request, in `request_schema`."""
    num_facts: int
    """Events that say a fact: kept in the states, and no part of the histories."""
    num_duplicates: int
    num_late: int
    """Events that arrived after a younger one of the same user."""


def partition(
    events: pa.Table,
    *,
    requests: RequestConfig,
    memory: MemorySpec,
    interests: Interests | None = None,
) -> Part:
    """Histories, states and requests of all events of some users.

    Args:
        events: good rows in any order, duplicates included, with `context_<field>` columns.
        interests: item keys to interest buckets; a catalogue's.
    """
    distinct = _distinct(events)
    num_duplicates = len(events) - len(distinct)
    users, codes = _users(distinct)
    says = pc.equal(distinct["action"], STATE)
    facts = _facts(distinct.filter(says), codes[np.asarray(says)], len(users))
    done, codes = distinct.filter(pc.invert(says)), codes[~np.asarray(says)]
    records = encode(done, interests)
    order = np.lexsort((records["event"], records["ts"], codes))
    done = done.take(pa.array(order))
    histories = Histories(
        users=users,
        offsets=np.searchsorted(codes, np.arange(len(users) + 1)).astype(np.int64),
        interactions=records[order],
        arrived=done["arrived_at"].cast(pa.int64()).to_numpy(),
    )
    return Part(
        histories=histories,
        users=_user_table(histories, facts, memory.state),
        requests=_request_table(histories, done, requests, memory),
        num_facts=len(distinct) - len(done),
        num_duplicates=num_duplicates,
        num_late=_num_late(histories),
    )


def _facts(said: pa.Table, codes: NDArray[np.int64], num_users: int) -> list[list[Fact]]:
    """What each user said."""
    found: list[list[Fact]] = [[] for _ in range(num_users)]
    for user, fact in zip(codes.tolist(), facts_of(said), strict=True):
        found[user].append(fact)
    return found


def _distinct(events: pa.Table) -> pa.Table:
    """One row per `(user_id, event_id)`, the first to arrive; sorted by user.

    The columns after arrival only make the choice the same whatever the order of the rows.
    """
    frame = pl.DataFrame(events)
    ties = ["arrived_at", "ts", "item_id", "action", "session_id"]
    first = frame.sort(["user_id", "event_id", *ties]).filter(
        pl.struct("user_id", "event_id").is_first_distinct()
    )
    return first.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(events.schema)


def _users(events: pa.Table) -> tuple[pa.Array, NDArray[np.int64]]:
    """The users, sorted, and the place of each row's user among them."""
    encoded = events["user_id"].combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)


def _num_late(histories: Histories) -> int:
    num = 0
    for user in np.flatnonzero(histories.late):
        arrived = histories.arrived[histories.offsets[user] : histories.offsets[user + 1]]
        youngest = np.minimum.accumulate(arrived[::-1])[::-1]
        num += int((arrived[:-1] > youngest[1:]).sum())
    return num


def _user_table(histories: Histories, facts: list[list[Fact]], spec: StateSpec) -> pa.Table:
    offsets = histories.offsets
    pairs = zip(pairwise(offsets.tolist()), facts, strict=True)
    states = [
        encode_state(fold(histories.interactions[low:high], spec, said), spec)
        for (low, high), said in pairs
    ]
    columns = {
        name: _lists(offsets, pa.array(histories.interactions[name]))
        for name in INTERACTION.names or ()
    }
    return pa.table(
        {
            "user_id": histories.users,
            **columns,
            "arrived": _lists(offsets, pa.array(histories.arrived)),
            "state": pa.array(states, pa.binary()),
        }
    )


def _lists(offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def request_schema(context: Sequence[str], memory: MemorySpec) -> pa.Schema:
    """The columns of a request; `labels` has bit h set where head h of the labels happened."""
    width = len(user_feature_names(memory))
    return pa.schema(
        [
            ("request_id", pa.string()),
            ("user_id", pa.string()),
            ("as_of", pa.int64()),
            ("session", pa.uint64()),
            ("split", pa.string()),
            ("items", pa.list_(pa.uint64())),
            ("labels", pa.list_(pa.uint8())),
            *((CONTEXT + field, pa.string()) for field in context),
            ("user_features", pa.list_(pa.float32(), width)),
        ]
    )


def _request_table(
    histories: Histories, events: pa.Table, config: RequestConfig, memory: MemorySpec
) -> pa.Table:
    records = histories.interactions
    group, first = _groups(histories, config, memory.view.session_gap)
    as_of = records["ts"][first]
    split = config.split_of(as_of)
    bits = _label_bits(config)[records["action"]]
    known = histories.arrived < config.known_until(split)[group]
    rows = np.flatnonzero((bits > 0) & (records["item"] != 0) & known)
    asked, offsets, items, labels = _outcomes(group[rows], records["item"][rows], bits[rows])
    first, as_of, split = first[asked], as_of[asked], split[asked]
    users = np.searchsorted(histories.offsets, first, side="right") - 1
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "request_id": pa.array([f"{key:016x}" for key in records["event"][first].tolist()]),
        "user_id": histories.users.take(pa.array(users)),
        "as_of": pa.array(as_of),
        "session": pa.array(records["session"][first]),
        "split": pa.array([SPLITS[place] for place in split.tolist()], pa.string()),
        "items": _lists(offsets, pa.array(items)),
        "labels": _lists(offsets, pa.array(labels)),
        **{CONTEXT + f: events[CONTEXT + f].take(pa.array(first)) for f in config.context},
    }
    kept = as_of >= (_ms(config.warmup) if config.warmup else 0)
    table = pa.table(columns).filter(pa.array(kept))
    features = _features(histories, users[kept], as_of[kept], memory)
    table = table.append_column("user_features", features)
    return table.cast(request_schema(config.context, memory))


def _groups(
    histories: Histories, config: RequestConfig, gap_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`(N,)` the group that each event falls into, and `(G,)` the first event of each group."""
    records, offsets = histories.interactions, histories.offsets
    if config.per == "event":
        return np.arange(len(records)), np.arange(len(records))
    begins = starts(records, gap_ms)
    begins[offsets[:-1]] = True
    first = np.flatnonzero(begins)
    return _joined(histories, first)[np.cumsum(begins) - 1], first


def _joined(histories: Histories, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(G,)` for each run of events the earliest run of the same user with the same session id.

    Two sessions of one user may go on at once, and their events interleave: a session that was
    named is one request all the same.
    """
    runs = np.arange(len(first))
    session = histories.interactions["session"][first]
    users = np.searchsorted(histories.offsets, first, side="right") - 1
    named = np.flatnonzero(session)
    order = named[np.lexsort((named, session[named], users[named]))]
    if len(order):
        same = (np.diff(session[order], prepend=0) == 0) & (np.diff(users[order], prepend=-1) == 0)
        heads = np.flatnonzero(~same)
        runs[order] = order[heads[np.cumsum(~same) - 1]]
    return runs


def _label_bits(config: RequestConfig) -> NDArray[np.uint8]:
    bits = np.zeros(256, np.uint8)
    for head, name in enumerate(config.labels):
        bits[ACTIONS[name].code] = 1 << head
    return bits


def _outcomes(
    group: NDArray[np.int64], item: NDArray[np.uint64], bits: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint8]]:
    """Groups with an outcome `(R,)`, offsets `(R + 1,)`, and their distinct items and bits.

    Items stand in the order of their first outcome.
    """
    order = np.lexsort((item, group))  # stable: within an item the earliest row comes first
    group, item = group[order], item[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (group[1:] != group[:-1]) | (item[1:] != item[:-1])
    heads = np.flatnonzero(fresh)
    merged = np.bitwise_or.reduceat(bits[order], heads) if len(heads) else bits[:0]
    told = np.lexsort((order[heads], group[heads]))
    asked, begins = np.unique(group[heads][told], return_index=True)
    return asked, np.append(begins, len(told)), item[heads][told], merged[told]


def _features(
    histories: Histories,
    users: NDArray[np.int64],
    as_of: NDArray[np.int64],
    memory: MemorySpec,
) -> pa.FixedSizeListArray:
    """`(R, F)` as a fixed-size list column."""
    width = len(user_feature_names(memory))
    rows = [user_features(many) for many in views(histories, users, as_of, spec=memory)]
    flat = np.concatenate(rows).ravel() if rows else np.zeros(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
