"""Other sides of the same events: what an item, a query or a pair remembers, by the same algebra.

`sided` gives events the keys of a side. A user and a pair of user and item are a person's own
memory: `fold` and `pair` make the states of those. What items and queries remember is of everybody
and must hold nothing of anybody: no key of a person, a session or an event, and no time finer than
a tile. So a `SideMemory` keeps tiles and never a ring, whatever the spec says. After a person is
forgotten it still counts what they did, but nothing there leads to them; with the next rebuild
from the histories that are left it is gone, too.

**Response time.** Items answer: of an event `accept`, `decline` or `hire` the `value` is the time
since it was asked, in hours. On the item's side the bucket of that time stands where else the
interest does, so response times are counted and decay like everything.

N events, R readings; A: `ViewSpec.actions`; H: `ViewSpec.half_lives`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.memory.ring as ring
import models.memory.tiles as tiles
from models.config import DAY_MS
from models.events import ACTIONS, Interactions
from models.memory.atoms import Atoms
from models.memory.kernels import exponential
from models.memory.segments import lower_bound
from models.memory.spec import MemorySpec, RateSpec, StateSpec, TileLevel, ViewSpec
from models.memory.state import EMPTY, State, fold, merge
from models.memory.sums import Sums

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
_ANSWERS = np.array([ACTIONS[name].code for name in ("accept", "decline", "hire")], np.uint8)
_FASTEST, _SLOWEST = -6, 12
"""Powers of two of an hour, a minute and half a year; what lies beyond is put to the end."""
NUM_RESPONSES = _SLOWEST - _FASTEST + 2
"""Buckets of response times; 0 is for none."""

ITEM_SPEC = MemorySpec(
    # A day is as sharp as it gets: nothing tells the hour at which somebody was here.
    state=StateSpec(
        num_interests=NUM_RESPONSES,
        levels=(
            TileLevel(hop=DAY_MS, keep=64),
            TileLevel(hop=30 * DAY_MS, keep=36),
            TileLevel(hop=360 * DAY_MS, keep=16),
        ),
    ),
    view=ViewSpec(
        actions=("impression", "view", "invite", "accept", "decline", "hire", "purchase"),
        half_lives=(7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS),
        rates=(RateSpec(name="acceptance", hits=("accept",), tries=("accept", "decline")),),
    ),
)
"""What items keep and how it is read, where no config says otherwise."""


class Side(StrEnum):
    """Whose memory an event goes into."""

    USER = "user"
    ITEM = "item"
    QUERY = "query"
    PAIR = "pair"


def sided(
    interactions: Interactions,
    side: Side,
    *,
    users: Keys | None = None,
    queries: Keys | None = None,
) -> tuple[Keys, Interactions]:
    """Events as one side sees them: `(n,)` keys and records. Those without a key are left out.

    On the sides of everybody no record has an item, a session or a value. The key of the event is
    there, since memory is over distinct events; `SideMemory` keeps none.

    Args:
        interactions: `(N,)` distinct events, of any users.
        users: `(N,)` keys of the users, for the sides of a person.
        queries: `(N,)` keys of the normalised texts that were asked, 0 for none.

    Raises:
        ValueError: when the side's keys are not given.
    """
    item = interactions["item"]
    if side is Side.ITEM:
        return _of_everybody(item, interactions, _answers(interactions))
    name, given = ("queries", queries) if side is Side.QUERY else ("users", users)
    if given is None:
        raise ValueError(f"the {side} side needs `{name}`, the key of each event")
    if side is Side.QUERY:
        return _of_everybody(given, interactions, interactions["interest"])
    if side is Side.USER:
        return given, interactions
    return pair_keys(given, item)[item != 0], interactions[item != 0]


def _of_everybody(
    keys: Keys, interactions: Interactions, interest: NDArray[np.uint16]
) -> tuple[Keys, Interactions]:
    bare = np.zeros(len(interactions), interactions.dtype)
    for name in ("ts", "event", "action"):
        bare[name] = interactions[name]
    bare["interest"] = interest
    return keys[keys != 0], bare[keys != 0]


def pair_keys(users: Keys, items: Keys) -> Keys:
    """`(N,)` a key, never 0, for each pair."""
    keys: Keys = np.maximum(_mixed(users + _mixed(items)), np.uint64(1))
    return keys


def _mixed(keys: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): no two keys have the same."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def pair(interactions: Interactions, item: int, spec: StateSpec) -> State:
    """What one user remembers of one item, from the user's own interactions `(N,)`."""
    return fold(interactions[interactions["item"] == np.uint64(item)], spec)


def _answers(interactions: Interactions) -> NDArray[np.uint16]:
    answers = np.isin(interactions["action"], _ANSWERS)
    return np.where(answers, response_bucket(interactions["value"]), np.uint16(0))


def response_bucket(hours: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The bucket of each response time: the nearest power of two of an hour; 0 for no time."""
    # From the bits of the number, so that every machine finds the same bucket.
    mantissa, exponent = np.frexp(np.asarray(hours, np.float64))
    power = np.clip(exponent - (mantissa < np.sqrt(0.5)), _FASTEST, _SLOWEST)
    return np.where(np.asarray(hours) > 0, power - _FASTEST + 1, 0).astype(np.uint16)


@dataclass(frozen=True)
class SideMemory:
    """What many items or queries remember of everybody: a state each, of tiles alone.

    A commutative monoid like `State`. A merge costs what its smaller side holds, so a follower
    folds what has come and merges it.
    """

    states: Mapping[int, State]

    @staticmethod
    def fold(keys: Keys, interactions: Interactions, spec: StateSpec) -> SideMemory:
        """From keys and records `(N,)` of `sided`, in any order.

        Raises:
            ValueError: when an event occurs twice, or does not fit into the spec's tiles.
        """
        said = interactions["action"] == ACTIONS["state"].code
        keys, interactions = keys[~said], interactions[~said]
        ring.canonical(interactions)  # refuses an event that occurs twice, whatever the keys
        order = np.argsort(keys, kind="stable")
        known, begins = np.unique(keys[order], return_index=True)
        parts = np.split(interactions[order], begins[1:])
        # By `zip` nothing comes of no keys, where `split` gives one empty part.
        pairs = zip(known.tolist(), parts, strict=False)
        return SideMemory({key: _counted(part, spec) for key, part in pairs})

    def merge(self, other: SideMemory, spec: StateSpec) -> SideMemory:
        """The memory of the union of two disjoint sets of events."""
        many, few = self.states, other.states
        if len(many) < len(few):
            many, few = few, many
        joined = {key: merge(many.get(key, EMPTY), state, spec) for key, state in few.items()}
        return SideMemory({**many, **joined})

    def items(self, keys: Keys, *, now_ms: int, spec: MemorySpec) -> ItemReading:
        """Reads `(R,)` items at once; one that is unknown is read as empty."""
        states = [self.states.get(key, EMPTY) for key in keys.tolist()]
        read = _read([*states, EMPTY], now_ms, spec)  # never of nothing at all
        return ItemReading(*(value[:-1] for value in vars(read).values()))


def _counted(interactions: Interactions, spec: StateSpec) -> State:
    nothing = ring.empty()
    return State(nothing, nothing, nothing, tiles.fold(interactions, spec))


@dataclass(frozen=True)
class ItemReading:
    """What is known of an item at a moment; of many, `(R,)` stands before each shape."""

    counts: Floats
    """`(A, H)` decayed number of events of each action: how often it was shown, asked, hired."""
    rates: Floats
    """`(len(ViewSpec.rates),)` such as the rate of acceptance, drawn to its prior."""
    response_log2_hours: Any
    """`()` mean logarithm of the response times, decayed at the slow half-life; 0 without any.

    Each is known to within half a power of two.
    """
    response_effective: Any
    """`()` effective number of response times behind it, (sum w)^2 / sum w^2."""


def item_reading(state: State, *, now_ms: int, spec: MemorySpec) -> ItemReading:
    """Reads an item's memory as it stands at `now_ms`; of a query's, `view` tells the profile."""
    return ItemReading(*(value[0] for value in vars(_read([state], now_ms, spec)).values()))


def _read(states: list[State], now_ms: int, spec: MemorySpec) -> ItemReading:
    num = len(states)
    atoms = _atoms(states, spec.state)
    age = atoms.age_days(np.full(num, now_ms))
    sums = Sums(atoms, age, num, spec)
    told = np.isin(atoms.action, _ANSWERS) & (atoms.interest > 0)
    row, age = atoms.row[told], age[told]
    youngest = np.full(num, np.inf)
    np.minimum.at(youngest, row, age)
    # From the youngest of the item, so that the mean outlives any silence.
    weight = exponential(age - youngest[row], spec.view.slow)
    mass = weight * atoms.count[told]
    power = atoms.interest[told].astype(np.float64) + (_FASTEST - 1)
    total, moment, squares = (
        np.asarray(np.bincount(row, part, num), np.float64)  # of nothing they are whole numbers
        for part in (mass, mass * power, mass * weight)
    )
    return ItemReading(
        counts=sums.counts,
        rates=sums.rates,
        response_log2_hours=_ratio(moment, total),
        response_effective=_ratio(total**2, squares),
    )


def _ratio(a: Floats, b: Floats) -> Floats:
    found: Floats = np.divide(a, b, out=np.zeros(len(b)), where=b > 0)
    return found


def _atoms(states: list[State], spec: StateSpec) -> Atoms:
    """What `of_state` gives of each of many states without single events, all in one go."""
    lengths = [len(state.tiles) for state in states]
    row, last = np.repeat(np.arange(len(states)), lengths), np.cumsum(lengths)
    held = np.concatenate([state.tiles for state in states])
    key, left = held["key"].astype(np.int64), held["count"].astype(np.int64)
    level, index, cell = tiles.unpack(held["key"])
    hop = np.array([tile.hop for tile in spec.levels])
    keep = np.array([tile.keep for tile in spec.levels])
    start = index * hop[level]
    newest = np.zeros((len(states), len(hop)), np.int64)
    np.maximum.at(newest, (row, level), index)
    # A tile counts what the finer ones inside it do not, and ends where those begin.
    inner = np.flatnonzero(level < len(hop) - 1)
    above = level[inner] + 1
    parents = tiles.pack(above, start[inner] // hop[above], cell[inner])
    place = lower_bound(key, inner + 1, last[row[inner]], parents)
    np.subtract.at(left, place, held["count"][inner].astype(np.int64))
    cut = np.full((len(states), len(hop)), np.iinfo(np.int64).max)
    cut[:, 1:] = ((newest - keep + 1) * hop)[:, :-1]
    some = left > 0
    action, interest = tiles.uncell(cell[some])
    return Atoms(
        row=row[some],
        start=start[some],
        end=np.minimum(start + hop[level], cut[row, level])[some],
        action=action,
        interest=interest,
        count=left[some],
        event=np.zeros(int(some.sum()), np.uint64),
    )
