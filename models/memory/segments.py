"""Many small ranges of one long array at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def lower_bound(values: NDArray[np.generic], low: Ints, high: Ints, target: Ints) -> Ints:
    """`(B,)` the first place in each sorted `values[low:high]` that is at least its target."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = open_.copy()
        before[open_] = values[middle[open_]] < target[open_]
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def expand(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """`(range, place)` of every place in the ranges `[low, high)`, one range after the other."""
    lengths = np.maximum(high - low, 0)
    of = np.repeat(np.arange(len(low)), lengths)
    begins = np.cumsum(lengths) - lengths
    return of, np.arange(len(of)) + np.repeat(low - begins, lengths)
