"""Decayed sums over the atoms of readings: the arithmetic of views.

All sums of a reading are bins of one table: there is one exponential and one `np.bincount` for
everything. It adds atom by atom in their one order, so equal atoms give equal floats, whichever
readings stand beside them.

`...` is the shape of the readings: `()` for one, `(B,)` for many. M atoms in all; N: half-lives of
the bank; S: its slots; A: `ViewSpec.actions`; H: `ViewSpec.half_lives`; K: interest buckets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import ACTIONS, POLARITY
from models.memory.atoms import Atoms
from models.memory.kernels import rate_per_day
from models.memory.spec import JumpSpec, MemorySpec, RateSpec, ViewSpec

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
TINY = float(np.finfo(np.float64).tiny)
"""Added to a sum that is 0 or far from it: the latter keeps its bits, and nothing divides by 0."""


@dataclass(frozen=True)
class Bank:
    """All half-lives that a reading needs, each once, and the actions that it tells apart.

    An action read by name has a slot of its own. Of the others those of no interest share slot 0,
    and those of interest the first slot of theirs: slots of interest come last.
    """

    half_lives: tuple[int, ...]
    rates: Floats
    """`(N, 1)` halvings a day."""
    fast: int
    slow: int
    shown: Places
    """`(H,)` places of `ViewSpec.half_lives`."""
    added: Floats
    """`(N,)` events a day that an event of weight 1 adds by the Hawkes jump of that half-life."""
    slot: Places
    """`(256,)` of each action's code."""
    kind: Places
    """`(S,)` 1 for a slot of interest."""
    liked: int
    """The first slot of interest."""
    counted: Places
    """`(A,)` slots of `ViewSpec.actions`."""
    shown_counted: Places
    """`(A, H)` places of both in a table `(N, S)`."""
    begins: Places
    """`(2 N + 2, 1)` where each row of a table of `S` columns begins."""

    @staticmethod
    def of(reading: ViewSpec) -> Bank:
        """The bank of a reading."""
        # To hash all of the spec at every reading would cost as much as a sum.
        half_lives = (*reading.half_lives, reading.fast, reading.slow)
        return _bank(half_lives, reading.actions, reading.hawkes.jumps, reading.rates)


@functools.lru_cache(maxsize=64)
def _bank(
    half_lives: tuple[int, ...],
    actions: tuple[str, ...],
    jumps: tuple[JumpSpec, ...],
    rates: tuple[RateSpec, ...],
) -> Bank:
    """`half_lives` are those shown, then the fast and the slow one."""
    others = [jump.half_life for jump in jumps] + [rate.half_life for rate in rates]
    found = tuple(dict.fromkeys([*half_lives, *others]))
    *shown, fast, slow = map(found.index, half_lives)
    added = np.zeros(len(found))
    for jump in jumps:
        added[found.index(jump.half_life)] += jump.size * rate_per_day(jump.half_life)
    names = {*actions, *(name for rate in rates for name in (*rate.hits, *rate.tries))}
    codes = sorted(ACTIONS[name].code for name in names)
    cold, warm = ([c for c in codes if (POLARITY[c] > 0) == liked] for liked in (False, True))
    liked, size = 1 + len(cold), 2 + len(codes)
    slot = np.where(POLARITY > 0, liked, 0)
    slot[cold] = 1 + np.arange(len(cold))
    slot[warm] = liked + 1 + np.arange(len(warm))
    counted = slot[[ACTIONS[name].code for name in actions]]
    return Bank(
        half_lives=found,
        rates=np.array([[DAY_MS / half_life] for half_life in found]),
        fast=fast,
        slow=slow,
        shown=np.array(shown),
        added=added,
        slot=slot,
        kind=(np.arange(size) >= liked).astype(np.intp),
        liked=liked,
        counted=counted,
        shown_counted=np.array(shown) * size + counted[:, None],
        begins=size * np.arange(2 * len(found) + 2)[:, None],
    )


class Sums:
    """The sums of readings."""

    def __init__(self, atoms: Atoms, age_days: Floats, num: int | None, spec: MemorySpec) -> None:
        """Of `num` readings, or of a single one without an axis of its own: None."""
        self.bank = bank = Bank.of(spec.view)
        self._spec, self._shape = spec, () if num is None else (num,)
        slot = bank.slot[atoms.action]
        kind = bank.kind[slot]
        # Weights are taken from the youngest of their kind and scaled at the end: a share, being a
        # ratio of two of them, then outlives any silence, where plain weights would underflow.
        group = 2 * atoms.row + kind
        youngest = np.empty(2 * prod(self._shape))
        youngest.fill(np.inf)
        np.minimum.at(youngest, group, age_days)
        weights = self._weights(atoms, age_days, youngest[group] - age_days)
        # Nobody's youngest is infinitely old: of the nothing that is there nothing is left.
        self._scale = np.exp2(youngest.reshape(*self._shape, 1, 2) * -bank.rates)
        """`(..., N, 2)`."""
        self._table, self._interests = self._binned(atoms, slot, kind, weights)

    def _weights(self, atoms: Atoms, age_days: Floats, since: Floats) -> Floats:
        """`(2 N + 4, M)` what each atom adds to each sum.

        Weights at the half-lives; by the power law; the squares of the former; without any; then
        the fast and the slow ones again, for the profiles.
        """
        bank, law = self.bank, self._spec.view.power
        num, count = len(bank.rates), atoms.count.astype(np.float64)
        # The power law is `exp2(-exponent * log2(1 + age / floor))`, see `kernels.power_law`.
        weight = np.empty((num + 1, len(atoms)))
        np.multiply(bank.rates, since, out=weight[:-1])
        np.log2(age_days * (DAY_MS / law.floor) + 1.0, out=weight[-1])
        weight[-1] *= -law.exponent
        np.exp2(weight, out=weight)
        found = np.empty((2 * num + 4, len(atoms)))
        mass = np.multiply(weight, count, out=found[: num + 1])
        np.multiply(weight[:-1], mass[:-1], out=found[num + 1 : -3])
        found[-3], found[-2], found[-1] = count, mass[bank.fast], mass[bank.slow]
        return found

    def _binned(
        self, atoms: Atoms, slot: Places, kind: Places, weights: Floats
    ) -> tuple[Floats, Floats]:
        """`(..., 2 N + 2, S)` sums by slot and `(..., 2, K)` the last two rows' by interest."""
        num_interests, size, rows = (
            self._spec.state.num_interests,
            len(self.bank.kind),
            len(weights) - 2,
        )
        width = rows * size + 4 * num_interests
        begin = atoms.row * width
        place = np.empty(weights.shape, np.intp)
        np.add(begin + slot, self.bank.begins, out=place[:-2])
        # Events of no interest have buckets of their own, which nobody reads.
        np.add(kind * num_interests + begin, atoms.interest + rows * size, out=place[-2])
        np.add(place[-2], 2 * num_interests, out=place[-1])
        flat = np.bincount(place.reshape(-1), weights.reshape(-1), prod(self._shape) * width)
        found = flat.astype(np.float64, copy=False)  # of nothing they are whole numbers
        found = found.reshape(*self._shape, width)
        table = found[..., : rows * size].reshape(*self._shape, rows, size)
        interests = found[..., rows * size :].reshape(*self._shape, 2, 2, num_interests)
        return table, interests[..., 1, :]

    @functools.cached_property
    def _decayed(self) -> Floats:
        """`(..., N, S)` decayed number of events by slot."""
        scale = self._scale.take(self.bank.kind, axis=-1)
        found: Floats = self._table[..., : len(self.bank.rates), :] * scale
        return found

    @functools.cached_property
    def _liked(self) -> Floats:
        """`(..., 2 N + 2)` of events of interest the sums of each row of the table."""
        found: Floats = np.add.reduce(self._table[..., self.bank.liked :], axis=-1)
        return found

    @property
    def num_events(self) -> Any:
        """`(...)` without decay."""
        return np.add.reduce(self._table[..., -1, :], axis=-1).astype(np.int64)

    @property
    def counts(self) -> Floats:
        """`(..., A, H)` decayed number of events."""
        decayed = self._decayed
        flat = decayed.reshape(*self._shape, decayed.shape[-1] * decayed.shape[-2])
        return flat.take(self.bank.shown_counted, axis=-1)

    @property
    def power(self) -> Floats:
        """`(..., A)` the same by the power law."""
        return self._table[..., len(self.bank.rates), :].take(self.bank.counted, axis=-1)

    @property
    def rates(self) -> Floats:
        """`(..., len(ViewSpec.rates))` shares, drawn to their prior where little was tried."""
        rates = self._spec.view.rates
        found = np.empty((*self._shape, len(rates)))
        for place, rate in enumerate(rates):
            by_slot = self._decayed[..., self.bank.half_lives.index(rate.half_life), :]
            # One after the other: `sum` of an array would follow the layout in memory.
            hits, tries = (
                sum(by_slot[..., self.bank.slot[ACTIONS[name].code]] for name in names)
                for names in (rate.hits, rate.tries)
            )
            found[..., place] = (hits + rate.strength * rate.prior) / (tries + rate.strength)
        return found

    @property
    def intensity(self) -> Any:
        """`(...)` Hawkes intensity: `base + sum_k a_k b_k S_k`, S the decayed number of events."""
        decayed = self._liked[..., : len(self.bank.rates)] * self._scale[..., 1]
        return self._spec.view.hawkes.base + np.add.reduce(decayed * self.bank.added, axis=-1)

    @functools.cached_property
    def effective(self) -> Floats:
        """`(..., N)` (sum w)^2 / sum w^2 of events of interest (Kish 1965).

        As many of equal weight say as much.
        """
        num = len(self.bank.rates)
        total, squares = self._liked[..., :num], self._liked[..., num + 1 : -1]
        found: Floats = total * total / (squares + TINY)
        return found

    @property
    def profiles(self) -> Floats:
        """`(..., 2, K)` shares of each interest, at the fast half-life and at the slow one."""
        total = np.add.reduce(self._interests, axis=-1, keepdims=True)
        shares: Floats = self._interests / (total + TINY)
        return shares
