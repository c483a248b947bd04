"""What items remember of everybody: whole-number counts per step of time, decayed when read.

A step is a day unless told otherwise. Read at a moment, it holds the whole steps before that
moment's step. So it is a function of the step alone, the same in training, in evaluation and
online, and it costs one product a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.memory.kernels import exponential


@dataclass(frozen=True)
class Popularity:
    """Counts of events of interest for I items in consecutive steps."""

    first: int
    """Steps since 1970 of row 0."""
    counts: NDArray[np.int32]
    """`(steps, I)`."""
    step_ms: int = DAY_MS

    @staticmethod
    def fold(
        ts_ms: NDArray[np.int64], items: NDArray[np.int64], num_items: int, step_ms: int = DAY_MS
    ) -> Popularity:
        """From events `(N,)` in any order, items being places `0..num_items-1`.

        Raises:
            ValueError: for an item outside those places.
        """
        if len(items) and not 0 <= items.min() <= items.max() < num_items:
            raise ValueError(
                f"popularity: items from {items.min()} to {items.max()}, places are 0 to "
                f"{num_items - 1}; look items up in the catalogue first"
            )
        step = ts_ms // step_ms
        first = int(step.min()) if len(step) else 0
        num = int(step.max()) - first + 1 if len(step) else 0
        flat = np.bincount((step - first) * num_items + items, minlength=num * num_items)
        return Popularity(first, flat.reshape(num, num_items).astype(np.int32), step_ms)

    def merge(self, other: Popularity) -> Popularity:
        """The sum of both; they are of the same items and steps."""
        if self.step_ms != other.step_ms:
            raise ValueError(f"popularity: steps of {self.step_ms} and {other.step_ms} ms differ")
        if not len(self.counts) or not len(other.counts):
            return self if len(self.counts) else other
        first = min(self.first, other.first)
        last = max(self.first + len(self.counts), other.first + len(other.counts))
        total = np.zeros((last - first, self.counts.shape[1]), np.int32)
        for part in (self, other):
            low = part.first - first
            total[low : low + len(part.counts)] += part.counts
        return Popularity(first, total, self.step_ms)

    def read(self, now_ms: int, half_lives_ms: tuple[int, ...]) -> NDArray[np.float32]:
        """`(I, H)` decayed counts of the steps before the step of `now_ms`.

        A step's events count as if at its middle; the reading is as of the step's beginning.
        """
        now = now_ms // self.step_ms
        before = self.counts[: max(now - self.first, 0)]
        ages = np.asarray(now - (self.first + np.arange(len(before)) + 0.5), np.float64)
        ages = ages * (self.step_ms / DAY_MS)
        weights = np.stack([exponential(ages, half_life) for half_life in half_lives_ms])
        return (weights @ before).T.astype(np.float32)
