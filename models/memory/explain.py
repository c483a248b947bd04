"""Explanations: the events behind a number of the view, each with its exact share in it.

Most numbers are sums over the atoms of the reading, so an event's share is its weight in the sum:
what is told is what was computed, and no model of it. The others are made of such sums: `parts_of`
names them.

    explain(state, feature="num_view_7d", now_ms=now, spec=spec).contributions[0].share
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.memory.sessions as sessions
from models.config import format_duration
from models.events import ACTION_NAMES, ACTIONS, POLARITY, Interactions
from models.memory.atoms import Atoms, of_state
from models.memory.kernels import excitation, exponential, power_law
from models.memory.ring import without_facts
from models.memory.segments import expand, lower_bound
from models.memory.spec import MemorySpec, RateSpec
from models.memory.state import State
from models.memory.view import MemoryView, view

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Contribution:
    """One event, or a group of them that the memory no longer tells apart."""

    event: int
    """Its key; 0 for a group."""
    item: int
    """Key of its item; 0 for none, and for a group."""
    action: str
    interest: int
    start_ms: int
    """When it was, or from when the group is; `end_ms` is the same for a single event."""
    end_ms: int
    count: int
    share: float
    """Above 0; all of an explanation sum to 1."""


@dataclass(frozen=True)
class Explanation:
    """What made a number: each contribution brought `share * total`."""

    feature: str
    value: float
    """As the view shows it."""
    total: float
    """What events brought: the value, less `HawkesSpec.base` for the intensity; 0 without any."""
    contributions: tuple[Contribution, ...]
    """The largest first, of equals the newest."""


def explain(
    state: State,
    *,
    feature: str,
    now_ms: int,
    spec: MemorySpec,
    history: Interactions | None = None,
) -> Explanation:
    """The events behind one number of `view(state, now_ms=now_ms, spec=spec)`.

    Args:
        feature: a name of `user_feature_names` that `explainable` lists, `hits_<rate>` or
            `tries_<rate>`. The number is that of the view, before a feature's logarithm.
        history: `(N,)` all events that made the state, as a store's `interactions` gives them.
            With it groups are told event by event, each with an equal share of its group.

    Raises:
        ValueError: for a feature that is no sum over events, naming those it is made of; for a
            history of other events than the state's.
    """
    known = _sums(spec)
    if feature not in known:
        raise ValueError(_no_sum(feature, spec))
    wanted = known[feature]
    atoms = of_state(state, spec.state)
    age = atoms.age_days(np.array([now_ms]))
    chosen = wanted.choose(_Reading(atoms, age, state, spec))
    seen = view(state, now_ms=now_ms, spec=spec)
    weight, unit = wanted.weigh(age[chosen])
    mass = weight * atoms.count[chosen]
    total = unit * fsum(mass)
    value = total if wanted.value is None else float(wanted.value(seen))
    if not mass.any():
        return Explanation(feature, value, 0.0, ())
    total = value if wanted.is_ratio else total
    share = np.zeros(len(atoms))
    share[chosen] = mass / fsum(mass)
    told = sorted(_told(atoms, share, state, history), key=_rank)
    return Explanation(feature, value, total, tuple(told))


def _rank(told: Contribution) -> tuple[float, int, int]:
    return -told.share, -told.end_ms, told.event


def explainable(spec: MemorySpec) -> list[str]:
    """Names of all that `explain` takes."""
    return list(_sums(spec))


def parts_of(feature: str, spec: MemorySpec) -> list[str]:
    """The explainable numbers that a feature is made of: itself, if it is one.

    Raises:
        ValueError: for a name that is none of `user_feature_names`.
    """
    names = list(_sums(spec))
    if feature in names:
        return [feature]
    rates = {f"rate_{r.name}": [f"hits_{r.name}", f"tries_{r.name}"] for r in spec.view.rates}
    profiles = [name for name in names if name.startswith(("fast_", "slow_"))]
    rhythm = ["num_sessions", "recency"]
    made_of = {
        "known": ["num_events"],
        **dict.fromkeys(("drift_cosine", "drift_jensen_shannon"), profiles),
        **dict.fromkeys(("gap", "overdue", "burstiness", "dormancy", "tempering"), rhythm),
        **rates,
    }
    if feature not in made_of:
        raise ValueError(f"{feature!r} is no feature; `user_feature_names` has them all")
    return made_of[feature]


def _no_sum(feature: str, spec: MemorySpec) -> str:
    parts = parts_of(feature, spec)
    few = ", ".join(parts[:2]) + (", ..." if len(parts) > 2 else "")
    return f"{feature!r} is no sum over events; it is made of {few} (`parts_of`): explain those"


@dataclass(frozen=True)
class _Reading:
    atoms: Atoms
    age: Floats
    state: State
    spec: MemorySpec


@dataclass(frozen=True)
class _Sum:
    """How one number is a sum over atoms."""

    choose: Callable[[_Reading], Mask]
    """`(M,)` which atoms count."""
    value: Callable[[MemoryView], Any] | None = None
    """None: the view does not show it."""
    half_life: int | None = None
    """Of the weights; None: by `kernel`."""
    kernel: Callable[[Floats], Floats] = np.ones_like
    is_ratio: bool = False
    """The value is no sum of weights itself, but goes by their shares."""

    def weigh(self, age: Floats) -> tuple[Floats, float]:
        """Weights of single events, and the unit that they are in.

        Halving weights are taken from the youngest, as the view does: their shares then outlive
        any silence.
        """
        if self.half_life is None or not len(age):
            return self.kernel(age), 1.0
        youngest = age.min()
        unit = float(exponential(youngest, self.half_life))
        return exponential(age - youngest, self.half_life), unit


@functools.lru_cache(maxsize=16)
def _sums(spec: MemorySpec) -> dict[str, _Sum]:
    """All numbers that are sums, by name."""
    read = spec.view
    interest = _of(*(name for name, action in ACTIONS.items() if action.polarity > 0))
    jumps = tuple((jump.size, jump.half_life) for jump in read.hawkes.jumps)
    found = {
        "recency": _Sum(_newest, _shown("recency_days"), is_ratio=True),
        "tenure": _Sum(_oldest, _shown("tenure_days"), is_ratio=True),
        "num_events": _Sum(_of(*ACTIONS), _shown("num_events")),
        "num_sessions": _Sum(_session_starts, _shown("num_sessions")),
        "intensity": _Sum(interest, _shown("intensity"), kernel=partial(excitation, jumps=jumps)),
    }
    law = partial(power_law, exponent=read.power.exponent, floor_ms=read.power.floor)
    for place, name in enumerate(read.actions):
        for column, half in enumerate(read.half_lives):
            value = _shown("counts", place, column)
            found[f"num_{name}_{format_duration(half)}"] = _Sum(_of(name), value, half)
        found[f"power_{name}"] = _Sum(_of(name), _shown("power", place), kernel=law)
    for rate in read.rates:
        found |= _of_rate(rate)
    for place, half in enumerate(read.half_lives):
        value = _shown("effective", place)
        found[f"effective_{format_duration(half)}"] = _Sum(interest, value, half, is_ratio=True)
    for field, half in (("fast", read.fast), ("slow", read.slow)):
        for bucket in range(spec.state.num_interests):
            value, choose = _shown(field, bucket), partial(_in_bucket, bucket=bucket)
            found[f"{field}_{bucket}"] = _Sum(choose, value, half, is_ratio=True)
    return found


def _of_rate(rate: RateSpec) -> dict[str, _Sum]:
    """What a rate is made of: hits and tries, each decayed, beside the prior."""
    sides = {"hits": rate.hits, "tries": rate.tries}
    return {
        f"{side}_{rate.name}": _Sum(_of(*names), half_life=rate.half_life)
        for side, names in sides.items()
    }


def _shown(field: str, *place: int) -> Callable[[MemoryView], Any]:
    return lambda seen: np.asarray(getattr(seen, field))[place]


def _of(*names: str) -> Callable[[_Reading], Mask]:
    codes = np.array([ACTIONS[name].code for name in names], np.uint8)
    return lambda reading: np.isin(reading.atoms.action, codes)


def _in_bucket(reading: _Reading, *, bucket: int) -> Mask:
    of_interest = POLARITY[reading.atoms.action] > 0
    return np.asarray(of_interest & (reading.atoms.interest == bucket))


def _newest(reading: _Reading) -> Mask:
    return np.isin(reading.atoms.event, reading.state.ring["event"][-1:])


def _oldest(reading: _Reading) -> Mask:
    mask = np.zeros(len(reading.atoms), bool)
    mask[reading.age.argmax() if len(mask) else slice(0)] = True
    return mask


def _session_starts(reading: _Reading) -> Mask:
    ring = reading.state.ring
    begins = sessions.starts(ring, reading.spec.view.session_gap)
    return np.isin(reading.atoms.event, ring["event"][begins])


def _told(
    atoms: Atoms, share: Floats, state: State, history: Interactions | None
) -> Iterator[Contribution]:
    """Each atom that has a share; with a history, groups as the events that are in them."""
    held = np.concatenate([state.ring, state.shown])
    item_of = dict(zip(held["event"].tolist(), held["item"].tolist(), strict=True))
    some = np.flatnonzero(share > 0)
    groups = some[atoms.event[some] == 0]
    if history is not None:
        rest = history[~np.isin(history["event"], held["event"])]
        of, rows = _members(atoms, groups, without_facts(rest))
        each = share[groups] / atoms.count[groups]
        for part, record in zip(each[of].tolist(), rows.tolist(), strict=True):
            ts, event, item, _, _, interest, action = record
            yield Contribution(event, item, ACTION_NAMES[action], interest, ts, ts, 1, part)
        some = some[atoms.event[some] != 0]
    columns = (atoms.event, atoms.action, atoms.interest, atoms.start, atoms.end, atoms.count)
    told = (column[some].tolist() for column in (*columns, share))
    for event, action, interest, start, end, count, part in zip(*told, strict=True):
        item = item_of.get(event, 0)
        yield Contribution(event, item, ACTION_NAMES[action], interest, start, end, count, part)


def _members(
    atoms: Atoms, groups: NDArray[np.intp], rest: Interactions
) -> tuple[NDArray[np.int64], Interactions]:
    """`(group, record)` of the events in each group, of those that no ring holds."""
    cell = _cell(rest["action"], rest["interest"])
    order = np.lexsort((rest["ts"], cell))
    rest, cell = rest[order], cell[order]
    wanted = _cell(atoms.action[groups], atoms.interest[groups])
    low, high = (np.searchsorted(cell, wanted, side) for side in ("left", "right"))
    first, end = (
        lower_bound(rest["ts"], low, high, edge[groups]) for edge in (atoms.start, atoms.end)
    )
    if (end - first != atoms.count[groups]).any():
        raise ValueError(
            "the history is not of the events that made the state; read both at one moment, or "
            "explain `fold(history, spec.state)`"
        )
    of, place = expand(first, end)
    return of, rest[place]


def _cell(action: NDArray[np.uint8], interest: NDArray[np.uint16]) -> NDArray[np.int64]:
    cell: NDArray[np.int64] = action.astype(np.int64) << 16 | interest
    return cell
