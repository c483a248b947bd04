"""Ways to keep how often somebody did something lately: ours, and those that others use.

Each is of one key, takes one event at a time and gives a number for each of `HORIZONS`: most the
sum of `2^(-age / horizon)`, a window the number of events within the horizon. `exact` is what the
number is meant to be, from the times of all events.
"""

from __future__ import annotations

import importlib.util
from collections import Counter as Counts
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import INTERACTION, Interactions
from models.memory import EMPTY, MemorySpec, ViewSpec, encode, fold, merge, update, view

HORIZONS = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
DAYS = [horizon // DAY_MS for horizon in HORIZONS]
SPEC = MemorySpec(view=ViewSpec(actions=("purchase",), half_lives=HORIZONS))
HAS_RIVER = importlib.util.find_spec("river") is not None
Floats = NDArray[np.float64]


def decayed(times: NDArray[np.int64], now_ms: int) -> Floats:
    """`(4,)` what a decayed counter is meant to be."""
    age = np.maximum(now_ms - times, 0)[:, None] / np.array(HORIZONS)
    return np.exp2(-age).sum(axis=0)


def windowed(times: NDArray[np.int64], now_ms: int) -> Floats:
    """`(4,)` what a window is meant to be."""
    return (now_ms - times[:, None] < np.array(HORIZONS)).sum(axis=0).astype(np.float64)


class Counter(Protocol):
    """The counter of one key."""

    def add(self, ts_ms: int, event: Interactions) -> None:
        """One event: its time, and the whole record as an array of one."""
        ...

    def read(self, now_ms: int) -> Floats:
        """`(4,)` a number for each horizon."""
        ...

    def num_bytes(self) -> int:
        """What must be kept: 8 bytes a number, whatever Python takes for it."""
        ...

    @staticmethod
    def exact(times: NDArray[np.int64], now_ms: int) -> Floats:
        """What `read` is meant to be."""
        ...


class Log:
    """The truth: every event is kept, and summed at the reading."""

    exact = staticmethod(decayed)

    def __init__(self) -> None:
        self._times: list[int] = []

    def add(self, ts_ms: int, event: Interactions) -> None:
        self._times.append(ts_ms)

    def read(self, now_ms: int) -> Floats:
        return decayed(np.array(self._times, np.int64), now_ms)

    def num_bytes(self) -> int:
        return 8 * len(self._times)


class Ebb:
    """Ours: a ring and integer tiles, every float at the reading. `view` reads all else as well."""

    exact = staticmethod(decayed)

    def __init__(self) -> None:
        self.state = EMPTY

    def add(self, ts_ms: int, event: Interactions) -> None:
        self.state = update(self.state, event, SPEC.state)

    def read(self, now_ms: int) -> Floats:
        return view(self.state, now_ms=now_ms, spec=SPEC).counts[0]

    def num_bytes(self) -> int:
        return len(encode(self.state, SPEC.state))


class EbbStored(Ebb):
    """The same as a store keeps it: new events lie behind the state, and 32 are folded at once."""

    def __init__(self) -> None:
        super().__init__()
        self._behind: list[Interactions] = []

    def add(self, ts_ms: int, event: Interactions) -> None:
        self._behind.append(event)
        if len(self._behind) == 32:
            self._fold()

    def _fold(self) -> None:
        if self._behind:
            new = fold(np.concatenate(self._behind), SPEC.state)
            self.state, self._behind = merge(self.state, new, SPEC.state), []

    def read(self, now_ms: int) -> Floats:
        self._fold()
        return super().read(now_ms)

    def num_bytes(self) -> int:
        return super().num_bytes() + INTERACTION.itemsize * len(self._behind)


class Forward:
    """A time and a float for each half-life, moved on at each event: forward decay with a landmark
    that moves along, so that nothing overflows (Cormode et al. 2009). A late event is weighed.
    """

    exact = staticmethod(decayed)

    def __init__(self) -> None:
        self._at, self._sums = 0, [0.0] * len(HORIZONS)

    def add(self, ts_ms: int, event: Interactions) -> None:
        before, self._at = self._at, max(self._at, ts_ms)
        moved, late = self._at - before, self._at - ts_ms
        self._sums = [
            kept * 2.0 ** (-moved / horizon) + 2.0 ** (-late / horizon)
            for kept, horizon in zip(self._sums, HORIZONS, strict=True)
        ]

    def read(self, now_ms: int) -> Floats:
        passed, pairs = max(now_ms - self._at, 0), zip(self._sums, HORIZONS, strict=True)
        return np.array([kept * 2.0 ** (-passed / horizon) for kept, horizon in pairs])

    def num_bytes(self) -> int:
        return 8 * (1 + len(HORIZONS))


class Windows:
    """Counts of days, and windows of them from the key's last day with an event on, whatever the
    time of the reading: as Metarank's periodic counter.
    """

    exact = staticmethod(windowed)

    def __init__(self) -> None:
        self._days: Counts[int] = Counts()

    def add(self, ts_ms: int, event: Interactions) -> None:
        day = ts_ms // DAY_MS
        self._days[day] += 1
        if len(self._days) > 2 * DAYS[-1]:
            oldest = max(self._days) - DAYS[-1]
            self._days = Counts({day: num for day, num in self._days.items() if day > oldest})

    def read(self, now_ms: int) -> Floats:
        last = self._last(now_ms)
        counts = self._days.items()
        return np.array([sum(num for day, num in counts if day > last - days) for days in DAYS])

    def _last(self, now_ms: int) -> int:
        return max(self._days)

    def num_bytes(self) -> int:
        return 16 * len(self._days)


class WindowsNow(Windows):
    """The same with windows from the day of the reading on."""

    def _last(self, now_ms: int) -> int:
        return now_ms // DAY_MS


class River:
    """`river.stats.EWMean` of events a day, with zeros for the silent days before an event.

    A mean with fading factor f is f times the decayed sum. It knows no time: what is late counts as
    of today, and while nothing comes nothing falls.
    """

    exact = staticmethod(decayed)

    def __init__(self) -> None:
        from river import stats

        self._keep = [2.0 ** (-1 / days) for days in DAYS]
        self._means = [stats.EWMean(fading_factor=1 - keep) for keep in self._keep]
        self._day, self._today = -1, 0
        for mean in self._means:
            mean.update(0)  # it begins with its first value: with nothing, then

    def add(self, ts_ms: int, event: Interactions) -> None:
        self._go_on(ts_ms // DAY_MS)
        self._today += 1

    def _go_on(self, day: int) -> None:
        while 0 <= self._day < day:
            for mean in self._means:
                mean.update(self._today)
            self._day, self._today = self._day + 1, 0
        self._day = max(self._day, day)

    def read(self, now_ms: int) -> Floats:
        pairs = zip(self._means, self._keep, strict=True)
        return np.array([mean.get() / (1 - keep) * keep + self._today for mean, keep in pairs])

    def num_bytes(self) -> int:
        return 8 * (2 + len(DAYS))


class RiverTicking(River):
    """The same where every reading first makes up for the days gone by: it writes."""

    def read(self, now_ms: int) -> Floats:
        self._go_on(now_ms // DAY_MS)
        return super().read(now_ms)


KINDS: dict[str, type[Counter]] = {
    "every event kept, exact": Log,
    "Ebb, event by event": Ebb,
    "Ebb, as stores keep it": EbbStored,
    "a time and a float": Forward,
    "windows, as Metarank's": Windows,
    "windows up to now": WindowsNow,
}
if HAS_RIVER:
    KINDS |= {"river EWMean of days": River, "river, ticked to read": RiverTicking}
