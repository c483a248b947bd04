"""Drift on lives with a planted change: how soon it is found at a given rate of false alarms.

The level of each detector is set on steady lives so that one in twenty would raise an alarm within
a year; others, steady too, show what that rate really is. Beside ours stand detectors of `river`
(when it is installed) over the surprise of each event given the counts before it. They must see
every event in order and keep a state of their own; our reading is a function of the memory.

    python -m tests.benchmarks.bench_drift      # some minutes on one core
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, log2, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import Interactions
from models.memory import MemorySpec, ViewSpec
from tests.benchmarks import table
from tests.models.memory.drifting import (
    NUM_INTERESTS,
    STATE,
    Life,
    drift,
    first_alarm,
    live,
    moment,
    threshold,
)

NOMINAL = 0.05
CHANGE, WATCH, WITHIN = 300, 365, 120
"""The day of the change, for how many a life is watched, within how many a change is found."""
DAYS = np.arange(CHANGE + 2, CHANGE + WATCH + 1, 2)
PAIRS = (("7d", "90d"), ("14d", "180d"), ("30d", "180d"))
SESSIONS_A_WEEK = (1.0, 3.0, 10.0)
NUM = {"levels": 300, "steady": 300, "abrupt": 100, "gradual": 100}
MEASURES = ("cosine", "JS")
Lives = list[Interactions]


@dataclass(frozen=True)
class Crowd:
    """Lives of one activity, by what happens in them."""

    sessions_a_week: float
    groups: dict[str, Lives]

    @staticmethod
    def of(sessions_a_week: float) -> Crowd:
        """Changes take no time or two months."""
        steady = Life(days=CHANGE + WATCH, sessions_a_week=sessions_a_week)
        kinds = {
            "levels": steady,
            "steady": steady,
            "abrupt": replace(steady, change=CHANGE),
            "gradual": replace(steady, change=CHANGE, takes=60),
        }
        seeds = iter(range(sum(NUM.values())))
        groups = {
            name: [live(life, next(seeds)) for _ in range(NUM[name])]
            for name, life in kinds.items()
        }
        return Crowd(sessions_a_week, groups)


@dataclass(frozen=True)
class Found:
    """Days from the change to the first alarm of each life, infinite where there is none."""

    level: float
    days: dict[str, NDArray[np.float64]]


def ours(crowd: Crowd, reading: ViewSpec) -> dict[str, NDArray[np.float64]]:
    """`(U, D, 2)` drift by group."""
    spec = MemorySpec(state=STATE, view=reading)
    return {name: drift(lives, DAYS, spec) for name, lives in crowd.groups.items()}


def by_level(paths: dict[str, NDArray[np.float64]], level: float) -> Found:
    return Found(
        level, {name: first_alarm(path, DAYS, level) - CHANGE for name, path in paths.items()}
    )


def surprises(life: Interactions) -> list[float]:
    """Bits by which each event surprises who has counted those before it."""
    counts = np.full(NUM_INTERESTS, 0.5)
    found = []
    for interest in life["interest"].tolist():
        found.append(-log2(counts[interest] / counts.sum()))
        counts[interest] += 1
    return found


def streamed(crowd: Crowd, detector: Callable[[float], Any], levels: list[float]) -> Found:
    """A detector of `river` at the first level, from sensitive to deaf, that is quiet enough."""
    signals = {
        name: [
            (surprises(life), (life["ts"] - moment(np.array(CHANGE))) / DAY_MS) for life in lives
        ]
        for name, lives in crowd.groups.items()
    }

    def alarm(signal: tuple[list[float], NDArray[np.float64]], level: float) -> float:
        one = detector(level)
        for value, day in zip(signal[0], signal[1].tolist(), strict=True):
            one.update(value)
            if one.drift_detected and 0 <= day < WATCH:
                return float(day)
        return inf

    def days(group: str, level: float) -> NDArray[np.float64]:
        return np.array([alarm(signal, level) for signal in signals[group]])

    quiet = (lv for lv in levels if (days("levels", lv) < inf).mean() <= NOMINAL)
    level = next(quiet, levels[-1])
    return Found(level, {name: days(name, level) for name in crowd.groups})


def detectors(crowd: Crowd) -> Iterator[tuple[str, Found]]:
    """Every detector with its alarms."""
    for fast, slow in PAIRS:
        paths = ours(crowd, ViewSpec(fast=fast, slow=slow))
        for place, measure in enumerate(MEASURES):
            of_measure = {name: path[:, :, place] for name, path in paths.items()}
            level = threshold(of_measure["levels"], NOMINAL)
            yield f"{measure} {fast} : {slow}", by_level(of_measure, level)
    if importlib.util.find_spec("river"):
        from river import drift as river

        rising = [5.0 * 1.3**step for step in range(16)]
        falling = [10.0**-step for step in range(1, 16)]
        yield (
            "river Page-Hinkley",
            streamed(crowd, lambda lv: river.PageHinkley(threshold=lv, mode="up"), rising),
        )
        yield (
            "river ADWIN",
            streamed(crowd, lambda lv: river.ADWIN(delta=lv, clock=1), falling),
        )


def wilson(share: float, num: int) -> str:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return f"{share:.3f} ({max(middle - half, 0):.3f}–{middle + half:.3f})"


def delay(crowd: Crowd, found: Found, group: str) -> str:
    """Share found in time, and the medians of all lives in days and in events."""
    days, begin = found.days[group], moment(np.array(CHANGE))
    num = [
        inf if day == inf else ((ts >= begin) & (ts < begin + day * DAY_MS)).sum()
        for day, ts in zip(days.tolist(), (life["ts"] for life in crowd.groups[group]), strict=True)
    ]
    wait = ", ".join(f"{middle:.0f}" for middle in (np.median(days), np.median(num)))
    return f"{(days < WITHIN).mean():.2f}: {wait}".replace("inf", "never")


def add_row(report: table.Report, crowd: Crowd, name: str, found: Found) -> None:
    report.row(
        f"{crowd.sessions_a_week:g}: {name}",
        f"{found.level:.3g}",
        wilson(float((found.days["steady"] < inf).mean()), NUM["steady"]),
        delay(crowd, found, "abrupt"),
        delay(crowd, found, "gradual"),
    )


def one_level(report: table.Report, crowds: list[Crowd], prior: float) -> None:
    """One level for lives of every activity, as whoever reads the number would set it."""
    paths = [ours(crowd, ViewSpec(drift_prior=prior)) for crowd in crowds]
    for place, measure in enumerate(MEASURES):
        together = np.concatenate([path["levels"][:, :, place] for path in paths])
        level = threshold(together, NOMINAL)
        for crowd, path in zip(crowds, paths, strict=True):
            found = by_level({name: one[:, :, place] for name, one in path.items()}, level)
            add_row(report, crowd, f"{measure}, prior {prior:g}", found)
    report.line()


HEADER = (
    "sessions/week: detector",
    "level",
    "false alarms (95 %)",
    "abrupt: days, events",
    "gradual: days, events",
)


def main() -> None:
    crowds = [Crowd.of(sessions) for sessions in SESSIONS_A_WEEK]
    title = f"false alarms per user-year (nominal {NOMINAL}) and delay of detection"
    own = table.Report(f"Drift, a level for each activity: {title}", HEADER)
    for crowd in crowds:
        with table.out.status(f"{crowd.sessions_a_week:g} sessions a week"):
            for name, found in detectors(crowd):
                add_row(own, crowd, name, found)
        own.line()
    shared = table.Report(f"Drift 14d : 180d, one level for all: {title}", HEADER)
    for prior in (5.0, 20.0, 50.0):
        one_level(shared, crowds, prior)
    shared.note(
        f"{NUM['steady']} steady lives watched for {WATCH} days, {NUM['abrupt']} of each change, "
        "which takes no time or 60 days;\na session has three events on average, six in ten of "
        f"them of its topic. Share found in {WITHIN} days: median delay\nof all lives, those "
        "without an alarm as infinite. Ours is read every second day, river at each event."
    )
    if not importlib.util.find_spec("river"):
        own.note("river is not installed (pip install river): its detectors are left out.")
    table.show(own, shared)


if __name__ == "__main__":
    main()
