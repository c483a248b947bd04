"""Lives with a planted change of interests, and alarms of a drift reading over them.

A session has a topic that most of its events share, so events are no independent draws and a steady
life still looks restless: that is what a threshold must bear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import Histories, MemorySpec, StateSpec, views

NUM_INTERESTS = 16
ORIGIN_MS = 1_600_000_000_000
STATE = StateSpec(ring=16, num_interests=NUM_INTERESTS)


@dataclass(frozen=True)
class Life:
    """How somebody lives; times in days."""

    days: int = 600
    sessions_a_week: float = 3.0
    events_a_session: float = 3.0
    loyalty: float = 0.6
    """Share of a session's events that are of its topic; the others follow the interests."""
    concentration: float = 0.3
    """Of the Dirichlet that interests are drawn from: low, so that few interests are large."""
    change: float | None = None
    """Day from which other interests take over; None: never."""
    takes: float = 0.0
    """Days that the change takes; 0: abrupt."""

    def steady(self) -> Life:
        """The same without a change."""
        return replace(self, change=None)


def live(life: Life, seed: int) -> Interactions:
    """The events of a life `(N,)`, in time order."""
    rng = np.random.default_rng(seed)
    before, after = rng.dirichlet(np.full(NUM_INTERESTS - 1, life.concentration), 2)
    num_sessions = rng.poisson(life.sessions_a_week / 7 * life.days)
    begins = np.sort(rng.uniform(0, life.days, num_sessions))
    sizes = rng.geometric(1 / life.events_a_session, num_sessions)
    gone = np.zeros(num_sessions)
    if life.change is not None:
        gone = np.clip((begins - life.change) / max(life.takes, 1e-9), 0, 1)
    shares = np.cumsum(before + gone[:, None] * (after - before), axis=1)
    of = np.repeat(np.arange(num_sessions), sizes)
    topic = (rng.random((num_sessions, 1)) > shares[:, :-1]).sum(1)
    own = (rng.random((len(of), 1)) > shares[of, :-1]).sum(1)
    events = np.zeros(len(of), INTERACTION)
    minutes = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    events["ts"] = ORIGIN_MS + (begins[of] * DAY_MS).astype(np.int64) + minutes * 60_000
    events["event"] = np.arange(1, len(of) + 1)
    events["interest"] = 1 + np.where(rng.random(len(of)) < life.loyalty, topic[of], own)
    events["action"] = ACTIONS["view"].code
    return events[np.lexsort((events["event"], events["ts"]))]


def drift(
    lives: list[Interactions], days: NDArray[np.int64], spec: MemorySpec
) -> NDArray[np.float64]:
    """`(U, D, 2)` cosine and Jensen-Shannon drift of each life as each day begins."""
    events = np.concatenate(lives)
    histories = Histories(
        users=pa.array([str(user) for user in range(len(lives))]),
        offsets=np.cumsum([0, *(len(life) for life in lives)]),
        interactions=events,
        arrived=events["ts"].astype(np.int64),
    )
    users = np.repeat(np.arange(len(lives)), len(days))
    moments = np.tile(moment(days), len(lives))
    parts = [
        np.stack([seen.drift_cosine, seen.drift_jensen_shannon], axis=-1)
        for seen in views(histories, users, moments, spec=spec)
    ]
    return np.concatenate(parts).reshape(len(lives), len(days), 2)


def moment(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """Milliseconds of the beginning of days of a life."""
    return ORIGIN_MS + days * DAY_MS


def threshold(steady: NDArray[np.float64], share: float) -> float:
    """That `share` of the steady lives `(U, D)` reach at least once: the nominal false alarms."""
    return float(np.quantile(steady.max(axis=1), 1 - share, method="higher"))


def first_alarm(
    paths: NDArray[np.float64], days: NDArray[np.int64], level: float
) -> NDArray[np.float64]:
    """`(U,)` day of the first reading above the level; infinite when there is none."""
    over = paths > level
    return np.where(over.any(axis=1), days[over.argmax(axis=1)], np.inf)
