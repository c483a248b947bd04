"""Decayed sums over the atoms of many readings: the arithmetic that views and explanations share.

Every sum is taken atom by atom in their one order (`np.bincount` adds in the order given), so equal
atoms give equal floats, whichever readings stand beside them.

B readings, M atoms; N: half-lives of the bank; A: `ViewSpec.actions`; K: interest buckets.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import ACTIONS, POLARITY
from models.memory.atoms import Atoms
from models.memory.kernels import power_law, rate_per_day
from models.memory.spec import MemorySpec, ViewSpec

Floats = NDArray[np.float64]
NUM_CODES = 64
"""Codes of the vocabulary stay below it."""
_KIND = (POLARITY[:NUM_CODES] > 0).astype(np.int64)


@dataclass(frozen=True)
class Bank:
    """All half-lives that a reading needs, each once, with the places of those that it shows."""

    half_lives: tuple[int, ...]
    rates: Floats
    """`(N, 1)` halvings a day."""
    shown: list[int]
    """`(H,)` places of `ViewSpec.half_lives`."""
    fast: int
    slow: int
    codes: list[int]
    """`(A,)` of `ViewSpec.actions`."""

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(reading: ViewSpec) -> Bank:
        """The bank of a reading."""
        wanted = [
            *reading.half_lives,
            reading.fast,
            reading.slow,
            *(jump.half_life for jump in reading.hawkes.jumps),
            *(rate.half_life for rate in reading.rates),
        ]
        found = tuple(dict.fromkeys(wanted))
        return Bank(
            half_lives=found,
            rates=np.array([[DAY_MS / half_life] for half_life in found]),
            shown=[found.index(half_life) for half_life in reading.half_lives],
            fast=found.index(reading.fast),
            slow=found.index(reading.slow),
            codes=[ACTIONS[name].code for name in reading.actions],
        )


class Sums:
    """The sums of B readings."""

    def __init__(self, atoms: Atoms, age_days: Floats, num: int, spec: MemorySpec) -> None:
        self.bank = Bank.of(spec.view)
        self._atoms, self._age, self._num, self._spec = atoms, age_days, num, spec
        kind = _KIND[atoms.action]
        # Weights are taken from the youngest of their kind and scaled at the end: a share, being a
        # ratio of two of them, then outlives any silence, where plain weights would underflow.
        group = atoms.row * 2 + kind
        youngest = np.full(2 * num, np.inf)
        np.minimum.at(youngest, group, age_days)
        since = age_days - youngest[group]
        self._weight = np.exp2(-since * self.bank.rates)
        """`(N, M)` of a single event of each atom, from the youngest of its kind."""
        self._mass = self._weight * atoms.count
        youngest[np.isinf(youngest)] = 0.0
        scale = np.exp2(-youngest * self.bank.rates).reshape(-1, num, 2)
        self._of_kind = self._binned(group, self._mass, 2 * num).reshape(-1, num, 2)
        self._decayed_interest = (self._of_kind * scale)[:, :, 1]
        self._cell = atoms.row * NUM_CODES + atoms.action
        table = self._binned(self._cell, self._mass, num * NUM_CODES)
        self.table = table.reshape(-1, num, NUM_CODES) * scale[:, :, _KIND]
        """`(N, B, NUM_CODES)` decayed number of events of each action."""
        self._interest = kind

    @staticmethod
    def _binned(place: NDArray[np.int64], weights: Floats, size: int) -> Floats:
        """`(n, size)` sums of the rows of weights `(n, M)` by place `(M,)`."""
        num = len(weights)
        flat = place + np.arange(0, num * size, size)[:, None]
        binned = np.bincount(flat.ravel(), weights.ravel(), num * size)
        sums: Floats = np.asarray(binned, np.float64)  # of nothing they are whole numbers
        return sums.reshape(num, size)

    @property
    def counts(self) -> Floats:
        """`(B, A, H)` decayed number of events."""
        chosen = self.table[self.bank.shown][:, :, self.bank.codes]
        return np.ascontiguousarray(chosen.transpose(1, 2, 0))

    @property
    def power(self) -> Floats:
        """`(B, A)` the same by the power law."""
        law = self._spec.view.power
        weights = self._atoms.count * power_law(self._age, law.exponent, law.floor)
        table = self._binned(self._cell, weights[None], self._num * NUM_CODES)
        return table.reshape(self._num, NUM_CODES)[:, self.bank.codes]

    @property
    def rates(self) -> Floats:
        """`(B, len(ViewSpec.rates))` shares, drawn to their prior where little was tried."""
        found = np.empty((self._num, len(self._spec.view.rates)))
        for place, rate in enumerate(self._spec.view.rates):
            by_action = self.table[self.bank.half_lives.index(rate.half_life)]
            # One after the other: `sum` would follow the layout in memory.
            hits, tries = (
                sum((by_action[:, ACTIONS[name].code] for name in names), np.zeros(self._num))
                for names in (rate.hits, rate.tries)
            )
            found[:, place] = (hits + rate.strength * rate.prior) / (tries + rate.strength)
        return found

    @property
    def intensity(self) -> Floats:
        """`(B,)` Hawkes intensity: `base + sum_k a_k b_k S_k`, S the decayed number of events."""
        total = np.full(self._num, self._spec.view.hawkes.base)
        for jump in self._spec.view.hawkes.jumps:
            decayed = self._decayed_interest[self.bank.half_lives.index(jump.half_life)]
            total += jump.size * rate_per_day(jump.half_life) * decayed
        return total

    @functools.cached_property
    def effective(self) -> Floats:
        """`(B, N)` (sum w)^2 / sum w^2 of events of interest: as many of equal weight say as much.

        Kish 1965.
        """
        total = self._of_kind[:, :, 1]
        squares = self._binned(
            self._atoms.row, self._mass * self._weight * self._interest, self._num
        )
        found: Floats = np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
        return found.T

    @property
    def profiles(self) -> Floats:
        """`(2, B, K)` shares of each interest, at the fast half-life and at the slow one."""
        num_interests = self._spec.state.num_interests
        place = self._atoms.row * num_interests + self._atoms.interest
        mass = self._mass[[self.bank.fast, self.bank.slow]] * self._interest
        found = self._binned(place, mass, self._num * num_interests)
        found = found.reshape(2, self._num, num_interests)
        total = found.sum(axis=-1, keepdims=True)
        shares: Floats = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
        return shares
