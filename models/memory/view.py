"""The reading of a memory at one moment: pure, and `now` is always an argument.

Decay belongs to the reading. A counter that sees no events still falls, a half-life can change
without replay, and equal states give equal floats, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import models.memory.sessions as sessions
from models.config import DAY_MS, format_duration
from models.events import ACTIONS, POLARITY, Interactions
from models.memory.spec import MemorySpec, ViewSpec
from models.memory.state import State
from models.memory.tiles import Atoms, atoms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MemoryView:
    """What a model, an explanation or a person may see of a memory at one moment.

    A: `ViewSpec.actions`; H: `ViewSpec.half_lives`; K: interest buckets; n: interactions in
    the ring, oldest first.
    """

    now_ms: int
    ring: Interactions
    session_rank: NDArray[np.int16]
    """`(n,)` 0 in the session going on, 1 in the one before it, ..."""
    counts: Floats
    """`(A, H)` decayed number of events of each action."""
    effective: Floats
    """`(H,)` effective number of events of interest, (sum w)^2 / sum w^2 (Kish 1965)."""
    fast: Floats
    """`(K,)` share of each interest, decayed at the fast half-life; sums to 1, or all 0."""
    slow: Floats
    """`(K,)` the same at the slow half-life."""
    drift_cosine: float
    """1 - cosine of fast and slow, times its confidence: 0 steady, 1 another person."""
    drift_jensen_shannon: float
    """Jensen-Shannon divergence in bits of fast and slow, times its confidence."""
    recency_days: float
    """Since the last event; infinite when there is none."""
    tenure_days: float
    """Since the first event still counted; 0 when there is none."""
    num_events: int
    """All events counted, without decay."""
    num_sessions: int
    """Sessions within the ring."""
    gap_days: float
    """Mean time between beginnings of sessions in the ring; 0 with fewer than two."""


def view(state: State, *, now_ms: int, spec: MemorySpec, session: int = 0) -> MemoryView:
    """Reads a memory as it stands at `now_ms`.

    Args:
        state: of events that had arrived before `now_ms`. That is the caller's to see to.
        session: key of the session that the request names; 0 where it names none.
    """
    reading, ring = spec.view, state.ring
    counted = atoms(state.tiles, spec.state)
    age = counted.age_days(now_ms)
    interest = POLARITY[counted.action] > 0
    fast = _profile(counted, age, interest, reading.fast, spec.state.num_interests)
    slow = _profile(counted, age, interest, reading.slow, spec.state.num_interests)
    confidence = _confidence(counted, age, interest, reading)
    gap = reading.session_gap
    begins = ring["ts"][sessions.starts(ring, gap)]
    return MemoryView(
        now_ms=now_ms,
        ring=ring,
        session_rank=sessions.ranks(ring, now_ms=now_ms, session=session, gap_ms=gap),
        counts=_counts(counted, age, reading),
        effective=np.array([_effective(counted, age, interest, h) for h in reading.half_lives]),
        fast=fast,
        slow=slow,
        drift_cosine=confidence * _cosine_distance(fast, slow),
        drift_jensen_shannon=confidence * _jensen_shannon(fast, slow),
        recency_days=max(now_ms - int(ring["ts"][-1]), 0) / DAY_MS if len(ring) else float("inf"),
        tenure_days=float(age.max()) if len(age) else 0.0,
        num_events=int(counted.count.sum()),
        num_sessions=len(begins),
        gap_days=float(np.diff(begins).mean()) / DAY_MS if len(begins) > 1 else 0.0,
    )


def decay(age_days: Floats, half_life_ms: int) -> Floats:
    """Weight 2^(-age / half-life): half of it is left after one half-life."""
    return np.exp2(-age_days * (DAY_MS / half_life_ms))


def _counts(counted: Atoms, age: Floats, reading: ViewSpec) -> Floats:
    """`(A, H)`. Summed atom by atom in key order, so equal states give equal floats."""
    place = np.full(256, -1)
    place[[ACTIONS[name].code for name in reading.actions]] = np.arange(len(reading.actions))
    row = place[counted.action]
    known = row >= 0
    columns = [
        np.bincount(
            row[known],
            (counted.count * decay(age, half_life))[known],
            minlength=len(reading.actions),
        )
        for half_life in reading.half_lives
    ]
    return np.stack(columns, axis=1)


def _effective(counted: Atoms, age: Floats, chosen: NDArray[np.bool_], half_life: int) -> float:
    """(sum w)^2 / sum w^2: how many events of equal weight would say as much."""
    if not chosen.any():
        return 0.0
    # A ratio keeps its value when all ages shift; from the youngest, it outlives any silence.
    weights = decay(age[chosen] - age[chosen].min(), half_life)
    count = counted.count[chosen]
    return float((count * weights).sum() ** 2 / (count * weights**2).sum())


def _profile(
    counted: Atoms, age: Floats, chosen: NDArray[np.bool_], half_life: int, num_interests: int
) -> Floats:
    if not chosen.any():
        return np.zeros(num_interests)
    # Shares keep their value when all ages shift; from the youngest, they outlive any silence.
    weights = counted.count[chosen] * decay(age[chosen] - age[chosen].min(), half_life)
    mass = np.bincount(counted.interest[chosen], weights, num_interests)
    return mass / float(mass.sum())


def _confidence(counted: Atoms, age: Floats, chosen: NDArray[np.bool_], reading: ViewSpec) -> float:
    """n / (n + prior) of the fast profile: few events say little about a change."""
    effective = _effective(counted, age, chosen, reading.fast)
    return effective / (effective + reading.drift_prior)


def _cosine_distance(a: Floats, b: Floats) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return max(1.0 - float(a @ b) / norm, 0.0) if norm > 0 else 0.0


def _jensen_shannon(a: Floats, b: Floats) -> float:
    """In bits, between 0 and 1 (Lin 1991)."""
    middle = (a + b) / 2
    total = 0.0
    for side in (a, b):
        some = side > 0
        total += float((side[some] * np.log2(side[some] / middle[some])).sum()) / 2
    return max(total, 0.0)


def user_features(seen: MemoryView) -> NDArray[np.float32]:
    """`(F,)` the long-term level as numbers of order one; names in `user_feature_names`."""
    gone = seen.recency_days if np.isfinite(seen.recency_days) else 3650.0
    overdue = gone / (seen.gap_days + 1.0)
    scalars = [
        float(seen.num_events > 0),
        np.log1p(gone) / 4,
        np.log1p(seen.tenure_days) / 4,
        np.log1p(seen.num_events) / 4,
        np.log1p(seen.num_sessions) / 2,
        np.log1p(seen.gap_days) / 4,
        np.log1p(overdue),
        seen.drift_cosine,
        seen.drift_jensen_shannon,
    ]
    counts = np.log1p(seen.counts).ravel() / 2
    effective = np.log1p(seen.effective) / 2
    profiles = np.sqrt(np.concatenate([seen.fast, seen.slow]))
    return np.concatenate([scalars, counts, effective, profiles]).astype(np.float32)


def user_feature_names(spec: MemorySpec) -> list[str]:
    """A name for each place of `user_features`."""
    halves = [format_duration(half_life) for half_life in spec.view.half_lives]
    return [
        "known", "recency", "tenure", "num_events", "num_sessions", "gap", "overdue",
        "drift_cosine", "drift_jensen_shannon",
        *(f"num_{action}_{half}" for action in spec.view.actions for half in halves),
        *(f"effective_{half}" for half in halves),
        *(f"fast_{bucket}" for bucket in range(spec.state.num_interests)),
        *(f"slow_{bucket}" for bucket in range(spec.state.num_interests)),
    ]  # fmt: skip
