"""What items remember of everybody: whole-number counts per day, decayed when read.

Read at a moment, it holds the whole days before that moment's day. So it is a function of the day
alone, the same in training, in evaluation and online, and it costs one product a day.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.memory.kernels import exponential


@dataclass(frozen=True)
class Popularity:
    """Counts of events of interest for I items on consecutive days."""

    first_day: int
    """Days since 1970 of row 0."""
    counts: NDArray[np.int32]
    """`(days, I)`."""

    @staticmethod
    def fold(ts_ms: NDArray[np.int64], items: NDArray[np.int64], num_items: int) -> Popularity:
        """From events `(N,)` in any order, items being places `0..num_items-1`.

        Raises:
            ValueError: for an item outside those places.
        """
        if len(items) and not 0 <= items.min() <= items.max() < num_items:
            raise ValueError(
                f"popularity: items from {items.min()} to {items.max()}, places are 0 to "
                f"{num_items - 1}; look items up in the catalogue first"
            )
        day = ts_ms // DAY_MS
        first = int(day.min()) if len(day) else 0
        num_days = int(day.max()) - first + 1 if len(day) else 0
        flat = np.bincount((day - first) * num_items + items, minlength=num_days * num_items)
        return Popularity(first, flat.reshape(num_days, num_items).astype(np.int32))

    def merge(self, other: Popularity) -> Popularity:
        """The sum of both; they are of the same items."""
        if not len(self.counts) or not len(other.counts):
            return self if len(self.counts) else other
        first = min(self.first_day, other.first_day)
        last = max(self.first_day + len(self.counts), other.first_day + len(other.counts))
        total = np.zeros((last - first, self.counts.shape[1]), np.int32)
        for part in (self, other):
            low = part.first_day - first
            total[low : low + len(part.counts)] += part.counts
        return Popularity(first, total)

    def read(self, now_ms: int, half_lives_ms: tuple[int, ...]) -> NDArray[np.float32]:
        """`(I, H)` decayed counts of the days before the day of `now_ms`.

        A day's events count as if at its middle; the reading is as of the day's beginning.
        """
        today = now_ms // DAY_MS
        before = self.counts[: max(today - self.first_day, 0)]
        ages = np.asarray(today - (self.first_day + np.arange(len(before)) + 0.5), np.float64)
        weights = np.stack([exponential(ages, half_life) for half_life in half_lives_ms])
        return (weights @ before).T.astype(np.float32)
