"""The reading of memories at a moment each: pure, and `now` is always an argument.

Decay belongs to the reading. A counter that sees no events still falls, a half-life can change
without replay, and equal states give equal floats, bit for bit. `view` reads one memory, `views`
many point-in-time readings of stored histories; both are the same function of atoms.

B readings; A: `ViewSpec.actions`; H: `ViewSpec.half_lives`; K: interest buckets; L: the ring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.memory.sessions as sessions
from models.config import DAY_MS, format_duration
from models.events import INTERACTION, Interactions
from models.memory.atoms import Atoms, HistoryAtoms, Ints, of_state
from models.memory.histories import Histories
from models.memory.rhythm import rhythm, silence_before, temper
from models.memory.spec import MemorySpec, ViewSpec
from models.memory.state import State
from models.memory.sums import Sums

Floats = NDArray[np.float64]
_CHUNK = 256
"""Readings at once: their weights fit into a cache."""


@dataclass(frozen=True)
class MemoryView:
    """What a model, an explanation or a person may see of a memory at one moment.

    Shapes are those of one memory; of many, `(B,)` stands before each.
    """

    now_ms: Any
    """`()`."""
    ring: Interactions
    """`(n,)` oldest first; of many memories `(B, L)`, zero records in front."""
    session_rank: NDArray[np.int16]
    """`(n,)` 0 in the session going on, 1 in the one before it, ..."""
    counts: Floats
    """`(A, H)` decayed number of events of each action."""
    power: Floats
    """`(A,)` the same by the power law `ViewSpec.power`."""
    rates: Floats
    """`(len(ViewSpec.rates),)` hits for each try, above 0."""
    intensity: Any
    """`()` events of interest a day to expect now (Hawkes)."""
    effective: Floats
    """`(H,)` effective number of events of interest, (sum w)^2 / sum w^2 (Kish 1965)."""
    fast: Floats
    """`(K,)` share of each interest, decayed at the fast half-life; sums to 1, or all 0."""
    slow: Floats
    """`(K,)` the same at the slow half-life."""
    drift_cosine: Any
    """`()` 1 - cosine of fast and slow, times its confidence: 0 steady, 1 another person."""
    drift_jensen_shannon: Any
    """`()` Jensen-Shannon divergence in bits of fast and slow, times its confidence."""
    recency_days: Any
    """`()` since the last event of the ring; infinite when there is none."""
    tenure_days: Any
    """`()` since the first event still counted; 0 when there is none."""
    num_events: Any
    """`()` all events counted, without decay."""
    num_sessions: Any
    """`()` sessions within the ring."""
    gap_days: Any
    """`()` mean time between beginnings of sessions in the ring; 0 with fewer than two."""
    burstiness: Any
    """`()` of the gaps between sessions: -1 like a clock, 0 at random, 1 all at once."""
    overdue: Any
    """`()` time since the last session began, in the person's own median gaps."""
    dormancy: Any
    """`()` share of the person's gaps that would be over by now: 0 just here, near 1 gone."""
    tempering: Any
    """`()` what long memory counts after the silence that a return has ended, or that lasts."""

    @property
    def interests(self) -> Floats:
        """`(K,)` shares to act upon: the slow ones, giving way to the fast after a long silence."""
        share = np.asarray(self.tempering)[..., None]
        return np.asarray(share * self.slow + (1.0 - share) * self.fast)


def view(state: State, *, now_ms: int, spec: MemorySpec, session: int = 0) -> MemoryView:
    """Reads a memory as it stands at `now_ms`.

    Args:
        state: of events that had arrived before `now_ms`. That is the caller's to see to.
        session: key of the session that the request names; 0 where it names none.
    """
    atoms = of_state(state, spec.state)
    now, named = np.array([now_ms]), np.array([session], np.uint64)
    many = _read(atoms, state.ring[None], now_ms=now, session=named, spec=spec)
    columns = vars(many).items()
    return MemoryView(**{n: v[0].item() if v.ndim == 1 else v[0] for n, v in columns})


def views(
    histories: Histories,
    users: Ints,
    as_of_ms: Ints,
    *,
    spec: MemorySpec,
    session: NDArray[np.uint64] | None = None,
) -> Iterator[MemoryView]:
    """Reads many memories, each at its own moment, in runs of a few hundred.

    Each is what `view` gives for the fold of what its user's history had seen by then.

    Args:
        users: `(R,)` places in `histories.users`; -1 for nobody.
        as_of_ms: `(R,)`.
        session: `(R,)` keys of the sessions that the requests name; all 0 where left out.
    """
    named = np.zeros(len(users), np.uint64) if session is None else session
    capacity = spec.state.ring
    source = HistoryAtoms(histories, spec.state)
    for low in range(0, len(users), _CHUNK):
        part = slice(low, low + _CHUNK)
        rows = histories.ring_rows(users[part], as_of_ms[part], spec.state)
        ring = np.zeros((len(rows), capacity), INTERACTION)
        ring[rows >= 0] = histories.interactions[rows[rows >= 0]]
        atoms = source.read(users[part], as_of_ms[part])
        yield _read(atoms, ring, now_ms=as_of_ms[part], session=named[part], spec=spec)


def _read(
    atoms: Atoms,
    ring: Interactions,
    *,
    now_ms: Ints,
    session: NDArray[np.uint64],
    spec: MemorySpec,
) -> MemoryView:
    """Readings `(B,)` of atoms, and of rings `(B, L)` padded in front."""
    reading, num = spec.view, len(now_ms)
    age = atoms.age_days(now_ms)
    sums = Sums(atoms, age, num, spec)
    fast, slow = sums.profiles
    confidence = sums.effective[:, sums.bank.fast]
    confidence = confidence / (confidence + reading.drift_prior)
    tenure = np.zeros(num)
    np.maximum.at(tenure, atoms.row, age)
    begins, current, ranks = _sessions(ring, now_ms, session, reading.session_gap)
    return MemoryView(
        now_ms=now_ms,
        ring=ring,
        session_rank=ranks,
        counts=sums.counts,
        power=sums.power,
        rates=sums.rates,
        intensity=sums.intensity,
        effective=sums.effective[:, sums.bank.shown],
        fast=fast,
        slow=slow,
        drift_cosine=confidence * _cosine_distance(fast, slow),
        drift_jensen_shannon=confidence * _jensen_shannon(fast, slow),
        tenure_days=tenure,
        num_events=np.bincount(atoms.row, atoms.count, num).astype(np.int64),
        **_rhythm(ring, begins, current, now_ms, reading),
    )


def _sessions(
    ring: Interactions, now_ms: Ints, session: NDArray[np.uint64], gap_ms: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int16]]:
    """`(B, L)` where sessions begin, `(B,)` whether one is going on, `(B, L)` the rank of each."""
    begins = sessions.starts(ring, gap_ms)
    current = sessions.is_current(ring, now_ms=now_ms, session=session, gap_ms=gap_ms)
    return begins & (ring["action"] > 0), current, sessions.ranked(begins, current)


def _rhythm(
    ring: Interactions,
    begins: NDArray[np.bool_],
    current: NDArray[np.bool_],
    now_ms: Ints,
    reading: ViewSpec,
) -> dict[str, Any]:
    """What the ring's sessions say of how often the user comes."""
    num_sessions = begins.sum(axis=-1)
    read = rhythm(ring["ts"], begins, now_ms=now_ms, spec=reading.rhythm)
    silence = silence_before(ring["ts"], begins, now_ms=now_ms, current=current)
    known = {
        "num_sessions": num_sessions,
        "burstiness": read.burstiness,
        "overdue": read.overdue,
        "dormancy": read.dormancy,
        "tempering": temper(silence, reading.return_half_life),
    }
    if not ring.shape[-1]:
        nothing = np.zeros(len(now_ms))
        return {**known, "gap_days": nothing, "recency_days": nothing + np.inf}
    # Sessions begin in the order of time: the first and the last say all of the mean.
    ts, every = ring["ts"], np.arange(len(now_ms))
    last = ts.shape[-1] - 1 - begins[:, ::-1].argmax(axis=-1)
    span = (ts[every, last] - ts[every, begins.argmax(axis=-1)]) / DAY_MS
    gap = np.where(num_sessions > 1, span / np.maximum(num_sessions - 1, 1), 0.0)
    gone = np.maximum(now_ms - ts[:, -1], 0) / DAY_MS
    return {**known, "gap_days": gap, "recency_days": np.where(num_sessions > 0, gone, np.inf)}


def _cosine_distance(a: Floats, b: Floats) -> Floats:
    norm = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    cosine: Floats = np.divide((a * b).sum(axis=-1), norm, out=np.ones_like(norm), where=norm > 0)
    return np.maximum(1.0 - cosine, 0.0)


def _jensen_shannon(a: Floats, b: Floats) -> Floats:
    """In bits, between 0 and 1 (Lin 1991)."""
    middle = (a + b) / 2
    total: Floats = np.zeros(a.shape[:-1])
    for side in (a, b):
        ratio = np.divide(side, middle, out=np.ones_like(side), where=side > 0)
        total += (side * np.log2(ratio)).sum(axis=-1) / 2
    return np.maximum(total, 0.0)


def user_features(seen: MemoryView) -> NDArray[np.float32]:
    """`(F,)`, or `(B, F)` of many: the long-term level as numbers of order one.

    Names are in `user_feature_names`.
    """
    gone = np.where(np.isfinite(seen.recency_days), seen.recency_days, 3650.0)
    scalars = [
        np.asarray(seen.num_events > 0, np.float64),
        np.log1p(gone) / 4,
        np.log1p(seen.tenure_days) / 4,
        np.log1p(seen.num_events) / 4,
        np.log1p(seen.num_sessions) / 2,
        np.log1p(seen.gap_days) / 4,
        np.log1p(seen.overdue) / 2,
        seen.burstiness,
        seen.dormancy,
        seen.tempering,
        seen.drift_cosine,
        seen.drift_jensen_shannon,
        np.log1p(seen.intensity),
    ]
    counts = np.log1p(seen.counts) / 2
    parts = [
        np.stack(scalars, axis=-1),
        counts.reshape(*counts.shape[:-2], -1),
        np.log1p(seen.power),
        seen.rates,
        np.log1p(seen.effective) / 2,
        np.sqrt(seen.fast),
        np.sqrt(seen.slow),
    ]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def user_feature_names(spec: MemorySpec) -> list[str]:
    """A name for each place of `user_features`."""
    halves = [format_duration(half_life) for half_life in spec.view.half_lives]
    return [
        "known", "recency", "tenure", "num_events", "num_sessions", "gap", "overdue",
        "burstiness", "dormancy", "tempering", "drift_cosine",
        "drift_jensen_shannon", "intensity",
        *(f"num_{action}_{half}" for action in spec.view.actions for half in halves),
        *(f"power_{action}" for action in spec.view.actions),
        *(f"rate_{rate.name}" for rate in spec.view.rates),
        *(f"effective_{half}" for half in halves),
        *(f"fast_{bucket}" for bucket in range(spec.state.num_interests)),
        *(f"slow_{bucket}" for bucket in range(spec.state.num_interests)),
    ]  # fmt: skip
