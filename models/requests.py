"""From the histories of some users to the requests made of them.

A request is a moment at which something was wanted (`as_of`), and what came of it. It sees exactly
the events that had *arrived* strictly before that moment, read by the same function of memory that
serves a live request.

N events, G groups of events, R requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator, model_validator

from models.config import Config, Duration
from models.events import ACTIONS
from models.groups import Groups, Lists, by_event, by_request, by_session, outcomes, slates
from models.leave_one_out import splits as left_out
from models.mapping import CONTEXT
from models.memory import Histories, MemorySpec, user_feature_names, user_features, views

SPLITS = ("train", "validate", "test")
_NEVER = np.iinfo(np.int64).max


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]
"""A moment; without a zone it is UTC."""


class RequestConfig(Config):
    """What counts as a request, what as its outcome, and which requests train, choose and judge."""

    per: Literal["session", "event", "request"] = "session"
    """`session`: one request where a session begins, with all that came of the session.
    `event`: one request at every event that has a label.
    `request`: one for each request id, for a log that has them: its impressions are the slate that
    was shown, and what came of it are the events that name it."""
    labels: tuple[str, ...] = Field(min_length=1, max_length=8)
    """Actions along the funnel; the ranker has a head for each."""
    target: str
    """The label that makes an item a retrieval positive; by default the last."""
    split: Literal["time", "leave_one_out"] = "time"
    """`time`: requests train until `validate_from`, and test from `test_from` on.
    `leave_one_out`: of each user the last event with the target label tests, the one before it
    validates, the earlier ones train; what the papers on sequences measure. Only with `per: event`.
    All items are known at all moments then, and item memory is that of the training events."""
    validate_from: UtcTime | None = None
    test_from: UtcTime | None = None
    warmup: UtcTime | None = None
    """No requests before this moment: histories are still empty."""
    outcome_window: Duration | None = Field(None, gt=0)
    """An outcome counts when it arrives within this time of its request, and a request younger than
    this at the end of the log is no example yet: what will come of it is not known. None: an
    outcome counts whenever it comes, before its split ends."""
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
    def _fits_together(self) -> RequestConfig:
        if self.target not in self.labels:
            raise ValueError(f"target {self.target!r} is not among the labels {self.labels}")
        if self.split == "leave_one_out":
            self._check_leave_one_out()
            return self
        if self.validate_from is None or self.test_from is None:
            raise ValueError("validate_from and test_from are needed, or split: leave_one_out")
        begin = self.warmup or datetime.min.replace(tzinfo=UTC)
        if not begin < self.validate_from < self.test_from:
            raise ValueError("the order in time must be warmup, validate_from, test_from")
        return self

    def _check_leave_one_out(self) -> None:
        if self.per != "event":
            raise ValueError(f"split: leave_one_out needs per: event, not per: {self.per}")
        times = ("validate_from", "test_from", "warmup", "outcome_window")
        given = [name for name in times if getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"split: leave_one_out knows no common time: leave out {', '.join(given)}"
            )

    @property
    def _edges(self) -> list[int]:
        """When validation and test begin; never, where the split is not by time."""
        return [_NEVER if t is None else _ms(t) for t in (self.validate_from, self.test_from)]

    def split_of(self, as_of_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place in `SPLITS` of each moment; any shape. Of a split by time."""
        return np.searchsorted(self._edges, as_of_ms, side="right")

    def known_until(self, as_of_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the outcomes of requests are told: what arrives later counts for none of them.

        That is where a request's split ends, or its window if that is sooner.
        """
        until = np.asarray([*self._edges, _NEVER])[self.split_of(as_of_ms)]
        return (
            until
            if self.outcome_window is None
            else np.minimum(until, as_of_ms + self.outcome_window)
        )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def request_schema(config: RequestConfig, memory: MemorySpec) -> pa.Schema:
    """The columns of a request; `labels` has bit h set where head h of the labels happened.

    `shown` are the items of the slate in the order of their places, where the log has slates.
    """
    width = len(user_feature_names(memory))
    slate = [
        ("shown", pa.list_(pa.uint64())),
        ("positions", pa.list_(pa.int32())),
        ("propensities", pa.list_(pa.float32())),
    ]
    return pa.schema(
        [
            ("request_id", pa.string()),
            ("user_id", pa.string()),
            ("as_of", pa.int64()),
            ("session", pa.uint64()),
            ("split", pa.string()),
            ("items", pa.list_(pa.uint64())),
            ("labels", pa.list_(pa.uint8())),
            *(slate if config.per == "request" else ()),
            *((CONTEXT + field, pa.string()) for field in config.context),
            ("user_features", pa.list_(pa.float32(), width)),
        ]
    )


def request_table(
    histories: Histories,
    columns: pa.Table,
    config: RequestConfig,
    memory: MemorySpec,
    known: Known | None = None,
) -> pa.Table:
    """All requests made of some users, in `request_schema`.

    Args:
        columns: `(N,)` what rows have beside the records: `models.records.schema`.
        known: requests whose reading of memory is known already.
    """
    records = histories.interactions
    groups = _groups(histories, columns, config, memory)
    as_of = records["ts"][groups.first]
    bits = _label_bits(config)[records["action"]]
    early = as_of < (_ms(config.warmup) if config.warmup else 0)
    # Of requests that are not wanted nothing counts, nor of events that belong to none.
    until = np.append(np.where(early, 0, config.known_until(as_of)), 0)
    told = (bits > 0) & (records["item"] != 0) & (histories.arrived < until[groups.of])
    rows = np.flatnonzero(told)
    split = None
    if config.split == "leave_one_out":
        rows, split = _left_out(histories, rows, bits[rows] & target_bit(config) > 0)
    found, labels = outcomes(groups, rows, records, bits[rows])
    asked, slate = found.group, None
    if config.per == "request":
        slate = slates(groups, records, _positions(columns), ~early)
        asked = np.union1d(asked, slate.group)
        found, slate = found.aligned(asked), slate.aligned(asked)
    first, as_of = groups.first[asked], as_of[asked]
    split = config.split_of(as_of) if split is None else split
    users = _owners(histories, first)
    made: dict[str, pa.Array | pa.ChunkedArray] = {
        "request_id": pa.array([f"{key:016x}" for key in records["event"][first].tolist()]),
        "user_id": histories.users.take(pa.array(users)),
        "as_of": pa.array(as_of),
        "session": pa.array(records["session"][first]),
        "split": pa.array([SPLITS[place] for place in split.tolist()], pa.string()),
        "items": _lists(found, records["item"]),
        "labels": pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), pa.array(labels)),
        **{CONTEXT + f: columns[CONTEXT + f].take(pa.array(first)) for f in config.context},
    }
    if slate is not None:
        made["shown"] = _lists(slate, records["item"])
        made["positions"] = _lists(slate, _positions(columns, missing=-1).astype(np.int32))
        made["propensities"] = _lists(slate, columns["propensity"].to_numpy())
    made["user_features"] = _features(histories, users, first, memory, known)
    schema = request_schema(config, memory)
    return pa.table([made[name] for name in schema.names], schema.names).cast(schema)


def target_bit(config: RequestConfig) -> int:
    """The bit of the target among the labels of an outcome."""
    return 1 << config.labels.index(config.target)


def _left_out(
    histories: Histories, rows: NDArray[np.int64], target: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the events `rows` that are in a split, and in which; each is a request."""
    found = left_out(_owners(histories, rows), target)
    return rows[found >= 0], found[found >= 0]


def _owners(histories: Histories, events: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(histories.offsets, events, side="right") - 1


def _groups(
    histories: Histories, columns: pa.Table, config: RequestConfig, memory: MemorySpec
) -> Groups:
    if config.per == "event":
        return by_event(len(histories.interactions))
    if config.per == "request":
        return by_request(histories, columns["request"].to_numpy())
    return by_session(histories, memory.view.session_gap)


def _positions(columns: pa.Table, missing: int = 1 << 31) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pc.fill_null(
        columns["position"].cast(pa.int64()), missing
    ).to_numpy()
    return found


def _label_bits(config: RequestConfig) -> NDArray[np.uint8]:
    bits = np.zeros(256, np.uint8)
    for head, name in enumerate(config.labels):
        bits[ACTIONS[name].code] = 1 << head
    return bits


def _lists(lists: Lists, values: NDArray[np.generic]) -> pa.ListArray:
    """The values of events, in the lists' order."""
    return pa.ListArray.from_arrays(
        pa.array(lists.offsets, pa.int32()), pa.array(values[lists.rows])
    )


@dataclass(frozen=True)
class Known:
    """Requests of an earlier build, and up to when what they saw is still what they see."""

    requests: pa.Table
    """In `request_schema`, at least one; of users that are in the histories."""
    unchanged_until: NDArray[np.int64]
    """`(U,)` for each user when the first of its new rows arrived."""

    def features(
        self, histories: Histories, users: NDArray[np.int64], first: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], pa.Array]:
        """`(R,)` the row of `requests` that reads the same memory, -1 for none; and the readings.

        Args:
            users: `(R,)` of each request.
            first: `(R,)` its first event.
        """
        records = histories.interactions[first]
        ids = [int(text, 16) for text in self.requests["request_id"].to_pylist()]
        theirs = np.asarray(ids, np.uint64)
        order = np.argsort(theirs)
        found = np.searchsorted(theirs[order], records["event"])
        row = order[np.minimum(found, len(order) - 1)]
        as_of = self.requests["as_of"].to_numpy()
        same = (theirs[row] == records["event"]) & (as_of[row] == records["ts"])
        same &= records["ts"] <= self.unchanged_until[users]
        return np.where(same, row, -1), self.requests["user_features"].combine_chunks()


def _features(
    histories: Histories,
    users: NDArray[np.int64],
    first: NDArray[np.int64],
    memory: MemorySpec,
    known: Known | None,
) -> pa.FixedSizeListArray:
    """`(R, F)` what memory said just before each request, as a fixed-size list column."""
    width = len(user_feature_names(memory))
    flat = np.zeros((len(users), width), np.float32)
    fresh = np.ones(len(users), bool)
    if known is not None and len(known.requests):
        row, readings = known.features(histories, users, first)
        fresh = row < 0
        flat[~fresh] = readings.flatten().to_numpy().reshape(-1, width)[row[~fresh]]
    as_of = histories.interactions["ts"][first]
    place = np.flatnonzero(fresh)
    done = 0
    # To read even one memory, all events are looked at.
    for many in views(histories, users[place], as_of[place], spec=memory) if len(place) else ():
        rows = user_features(many)
        flat[place[done : done + len(rows)]] = rows
        done += len(rows)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), width)
