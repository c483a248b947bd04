"""The event contract: what one thing that somebody did looks like.

A source (a file, the HTTP endpoint) gives a table; `validate` tells the good rows from the wrong
ones, each wrong one with its reason; `encode` turns good rows into fixed-size interaction records,
the only thing that memory ever sees.

An event id is unique per user: the key of an event is a hash of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

TIMESTAMP = pa.timestamp("ms", tz="UTC")
MAX_ID_BYTES = 256
MAX_FACT_BYTES = 4096

SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("arrived_at", TIMESTAMP),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("action", pa.string(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("request_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("query", pa.string()),
        pa.field("value", pa.float32()),
        pa.field("surface", pa.string()),
        pa.field("propensity", pa.float32()),
        # A fact that is said (action `state`); null in every other event.
        pa.field("slot", pa.string()),
        pa.field("fact", pa.string()),  # JSON text of the value; null withdraws the slot
        pa.field("fact_source", pa.string()),
        pa.field("valid_until", TIMESTAMP),
    ]
)
REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)


@dataclass(frozen=True)
class Action:
    """One word of the vocabulary.

    `code` is stored in every state: never reuse or change one. `polarity` is +1 for interest,
    -1 for its opposite, 0 for neither.
    """

    code: int
    polarity: int


ACTIONS: dict[str, Action] = {
    "impression": Action(1, 0),
    "search": Action(2, 0),
    "view": Action(3, 1),
    "click": Action(4, 1),
    "save": Action(5, 1),
    "cart": Action(6, 1),
    "apply": Action(7, 1),
    "invite": Action(8, 1),
    "accept": Action(9, 1),
    "hire": Action(10, 1),
    "purchase": Action(11, 1),
    "like": Action(12, 1),
    "dismiss": Action(32, -1),
    "decline": Action(33, -1),
    "cancel": Action(34, -1),
    "dislike": Action(35, -1),
    "state": Action(48, 0),
}
STATE = "state"
"""The action of an event that says a fact (slot, value): it is no interaction with an item."""
FACT_SOURCES = ("inferred", "observed", "explicit")
"""Who says a fact, the weakest first: a later one in this list is believed against a former."""
ACTION_NAMES = {action.code: name for name, action in ACTIONS.items()}
POLARITY = np.zeros(256, np.int8)
for _action in ACTIONS.values():
    POLARITY[_action.code] = _action.polarity

INTERACTION = np.dtype(
    [
        ("ts", "<i8"),  # milliseconds since 1970, UTC
        ("event", "<u8"),  # key of (user_id, event_id)
        ("item", "<u8"),  # key of item_id; 0: none
        ("session", "<u8"),  # key of session_id; 0: not given, sessions follow the gap rule
        ("value", "<f4"),
        ("interest", "<u2"),  # bucket of the item's interest; 0: unknown
        ("action", "u1"),
    ]
)
Interactions = NDArray[np.void]
Interests = Callable[[NDArray[np.uint64]], NDArray[np.uint16]]
Keys = Callable[[pa.Array | pa.ChunkedArray], NDArray[np.uint64]]


def key64(text: str) -> int:
    """A stable 64-bit key of a text (XXH3-64), never 0 (0 stands for "none").

    No secret and no guard: whoever chooses ids can make two that collide. A catalogue refuses such
    a pair of items, and ids of events and sessions collide within one user only.
    """
    return xxhash.xxh3_64_intdigest(text.encode()) or 1


_FEW = 1_000


def keys64(column: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """`key64` of every value, 0 for null. Of many, each distinct value is hashed once."""
    if len(column) < _FEW:  # an event's post: building a dictionary costs forty times the hash
        texts = (0 if text is None else key64(text) for text in column.to_pylist())
        return np.fromiter(texts, np.uint64, len(column))
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    keys = [0, *(key64(text) for text in encoded.dictionary.to_pylist())]
    indices = pc.fill_null(pc.add(encoded.indices.cast(pa.int64()), 1), 0)
    table: NDArray[np.uint64] = np.asarray(keys, np.uint64)
    found: NDArray[np.uint64] = table[indices.to_numpy(zero_copy_only=False)]
    return found


@dataclass(frozen=True)
class Validated:
    """The good rows in `SCHEMA` (arrival filled in), and the wrong ones with a `reason` column.

    `rejected_rows` are the positions of the wrong rows in the table given.
    """

    good: pa.Table
    rejected: pa.Table
    rejected_rows: NDArray[np.int64]


def validate(
    table: pa.Table, *, now_ms: int, max_skew_ms: int = 300_000, delay_ms: int = 0
) -> Validated:
    """Tells good rows from wrong ones. Columns that the contract does not know are left out.

    Args:
        table: columns of `SCHEMA`, of its types or castable without loss; optional ones may be
            missing. A value that a source could not parse comes as null.
        now_ms: the present, for "in the future".
        max_skew_ms: how far ahead of the present a clock may be.
        delay_ms: arrival is `ts` plus this where `arrived_at` is not given.

    Raises:
        ValueError: when a required column is missing, or a column is there twice or has a type
            beyond casting.
    """
    table = conform(table)
    wrong, reasons = _reasons(table, now_ms + max_skew_ms)
    good = table.take(pa.array(np.delete(np.arange(len(table)), wrong))) if len(wrong) else table
    due = pc.add(good["ts"], pa.scalar(delay_ms, pa.duration("ms")))
    arrival = pc.coalesce(good["arrived_at"], due)
    good = good.set_column(SCHEMA.get_field_index("arrived_at"), "arrived_at", arrival)
    rejected = table.take(pa.array(wrong))
    rejected = rejected.append_column("reason", pa.array(reasons, pa.string()))
    return Validated(good, rejected, wrong)


def conform(table: pa.Table) -> pa.Table:
    """The table's columns in the order and types of `SCHEMA`; missing optional ones are null.

    Raises:
        ValueError: naming the column that is missing, there twice, or cannot be cast.
    """
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise ValueError(
            f"events lack the required column(s) {', '.join(missing)}; "
            f"there are {', '.join(table.column_names)}. Map them in `source.columns`."
        )
    columns = []
    for field in SCHEMA:
        if table.column_names.count(field.name) > 1:
            raise ValueError(f"event column {field.name!r} is there twice; leave one out")
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        try:
            # Times finer than a millisecond are cut; everything else is cast without loss.
            columns.append(table[field.name].cast(field.type, safe=field.type != TIMESTAMP))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"event column {field.name!r}: {error}") from error
    # Nullable throughout: a null in a required column is a row's fault, told as its reason.
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    return pa.Table.from_arrays(columns, schema=nullable)


def _reasons(table: pa.Table, latest_ms: int) -> tuple[NDArray[np.int64], list[str]]:
    """The rows that break a rule, and for each the first one that it breaks."""
    names = [""]
    found = np.zeros(len(table), np.uint8)
    for name, broken in _broken(table, latest_ms):
        names.append(name)
        if broken.any():
            found[broken & (found == 0)] = len(names) - 1
    wrong = np.flatnonzero(found)
    return wrong, [names[code] for code in found[wrong].tolist()]


def _broken(table: pa.Table, latest_ms: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each rule and the rows that break it; rules on a column without values are left out."""
    flat = {name: table[name] for name in table.column_names}
    there = {name for name, column in flat.items() if column.null_count < len(column)}
    ts = _millis(flat["ts"])
    for name, rule in (
        ("user_id", "no user_id"),
        ("event_id", "no event_id"),
        ("ts", "no or unparsable ts"),
    ):
        if flat[name].null_count:
            yield rule, _mask(pc.is_null(flat[name]))
    yield "ts before 1970", ts < 0
    yield "ts in the future", ts > latest_ms
    actions = pc.unique(flat["action"]).to_pylist()
    if any(action not in ACTIONS for action in actions):
        yield "unknown action", ~_mask(pc.is_in(flat["action"], value_set=pa.array(list(ACTIONS))))
    if flat["item_id"].null_count:
        needs_item = pc.invert(pc.is_in(flat["action"], value_set=pa.array(_WITHOUT_ITEM)))
        yield "no item_id", _mask(needs_item) & _mask(pc.is_null(flat["item_id"]))
    for name in _IDS:
        if name in there:
            rule = f"{name} is empty, over {MAX_ID_BYTES} bytes or holds a zero byte"
            yield rule, _bad_id(flat[name])
    if "arrived_at" in there:
        arrived = _millis(flat["arrived_at"])
        yield "arrived_at before ts", _mask(pc.is_valid(flat["arrived_at"])) & (arrived < ts)
        yield "arrived_at in the future", arrived > latest_ms
    if "position" in there:
        yield "position below zero", _mask(pc.less(flat["position"], 0))
    if "value" in there:
        yield "value is not finite", _mask(pc.invert(pc.is_finite(flat["value"])))
    if "propensity" in there:
        yield "propensity outside (0, 1]", _outside(flat["propensity"])
    if STATE in actions or there & {"slot", "fact"}:
        yield from _broken_facts(flat, ts)


def _broken_facts(
    flat: dict[str, pa.ChunkedArray], ts: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The rules of what is said."""
    stated = _mask(pc.equal(flat["action"], STATE))
    said = _mask(pc.is_valid(pc.coalesce(flat["slot"], flat["fact"])))
    until = _millis(flat["valid_until"])
    yield "slot or fact without the action `state`", said & ~stated
    yield "action `state` without a slot", stated & _mask(pc.is_null(flat["slot"]))
    yield "unknown fact_source", stated & ~_mask(_is_source(flat["fact_source"]))
    yield f"fact is no JSON or over {MAX_FACT_BYTES} bytes", _no_json(flat["fact"])
    yield "valid_until not after ts", stated & (until >= 0) & (until <= ts)


_IDS = ("user_id", "event_id", "item_id", "session_id", "request_id", "slot")
_WITHOUT_ITEM = ("search", STATE)


def _mask(condition: pa.ChunkedArray) -> NDArray[np.bool_]:
    """A condition as numpy; null is false."""
    return np.asarray(pc.fill_null(condition, False))


def _millis(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Milliseconds since 1970; null is -1 and told apart by its own rule."""
    missing = pc.is_null(column)
    filled = pc.if_else(missing, pa.scalar(-1, pa.int64()), column.cast(pa.int64()))
    ts = np.asarray(filled, np.int64)
    return np.where(np.asarray(missing), -1, ts)


def _bad_id(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    length = pc.binary_length(column)
    sized = pc.and_(pc.greater(length, 0), pc.less_equal(length, MAX_ID_BYTES))
    # The zero byte parts user and event in the key of an event.
    return _mask(pc.or_(pc.invert(sized), pc.match_substring(column, "\0")))


def _is_source(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether a source is known; a fact without one is explicit."""
    return pc.or_(pc.is_null(column), pc.is_in(column, value_set=pa.array(FACT_SOURCES)))


def _no_json(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Facts are few: each is parsed."""
    wrong = _mask(pc.greater(pc.binary_length(column), MAX_FACT_BYTES))
    for row in np.flatnonzero(_mask(pc.is_valid(column)) & ~wrong):
        try:
            # Python reads NaN, and takes 1e999 for infinity, which no JSON can say.
            json.dumps(json.loads(column[row].as_py()), allow_nan=False)
        except (ValueError, RecursionError):
            wrong[row] = True
    return wrong


def _outside(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    inside = pc.and_(pc.greater(column, 0), pc.less_equal(column, 1))
    return _mask(pc.invert(inside))


def encode(
    good: pa.Table, interests: Interests | None = None, *, keys: Keys | None = None
) -> Interactions:
    """Good rows as `INTERACTION` records `(N,)`, in the order given.

    Args:
        good: rows that passed `validate`.
        interests: item keys to interest buckets; a catalogue's `interests`. None: all unknown.
        keys: a faster `keys64`, such as `models.keys.keys_of`.
    """
    keyed = keys or keys64
    records = np.zeros(len(good), INTERACTION)
    if not len(good):
        return records
    pair = pc.binary_join_element_wise(good["user_id"], good["event_id"], "\0")
    records["ts"] = good["ts"].cast(pa.int64()).to_numpy()
    records["event"] = keyed(pair)
    records["item"] = keyed(good["item_id"])
    records["session"] = keyed(good["session_id"])
    records["value"] = pc.fill_null(good["value"], 0.0).to_numpy()
    codes = pc.index_in(good["action"], value_set=pa.array(list(ACTIONS))).to_numpy()
    records["action"] = np.asarray([a.code for a in ACTIONS.values()], np.uint8)[codes]
    if interests is not None:
        records["interest"] = interests(records["item"])
    return records
