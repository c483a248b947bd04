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
from models.config import format_duration
from models.events import INTERACTION, Interactions
from models.memory.atoms import Atoms, HistoryAtoms, Ints, of_state
from models.memory.histories import Histories
from models.memory.rhythm import Visits, temper, visits
from models.memory.ring import WHOLE
from models.memory.spec import MemorySpec, ViewSpec
from models.memory.state import State
from models.memory.sums import TINY, Sums

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
    atoms, now, named = of_state(state, spec.state), np.int64(now_ms), np.uint64(session)
    one = _read(atoms, state.ring, now_ms=now, session=named, spec=spec)
    return MemoryView(**{n: v.item() if isinstance(v, np.generic) else v for n, v in one.items()})


def views(
    histories: Histories,
    users: Ints,
    as_of_ms: Ints,
    *,
    spec: MemorySpec,
    session: NDArray[np.uint64] | None = None,
    now_ms: Ints | None = None,
) -> Iterator[MemoryView]:
    """Reads many memories, each at its own moment, in runs of a few hundred.

    Each is what `view` gives for the fold of what its user's history had seen by then.

    Args:
        users: `(R,)` places in `histories.users`; -1 for nobody.
        as_of_ms: `(R,)`.
        session: `(R,)` keys of the sessions that the requests name; all 0 where left out.
        now_ms: `(R,)` moments of reading, where the memory is older than that; by default `as_of`.
    """
    now = as_of_ms if now_ms is None else now_ms
    named = np.zeros(len(users), np.uint64) if session is None else session
    nothing = np.zeros(1, INTERACTION)
    whole = np.concatenate([x.view(WHOLE) for x in (nothing, histories.interactions)])
    source = HistoryAtoms(histories, spec.state)
    for low in range(0, len(users), _CHUNK):
        part = slice(low, low + _CHUNK)
        rows = histories.ring_rows(users[part], as_of_ms[part], spec.state)
        ring = whole.take(rows + 1).view(INTERACTION)
        atoms = source.read(users[part], as_of_ms[part])
        many = _read(atoms, ring, now_ms=now[part], session=named[part], spec=spec)
        yield MemoryView(**many)


def _read(
    atoms: Atoms, ring: Interactions, *, now_ms: Any, session: Any, spec: MemorySpec
) -> dict[str, Any]:
    """The fields of readings of atoms, and of rings `(..., L)` padded in front.

    `...` is the shape of `now_ms` and `session`: `()` for one reading, `(B,)` for many.
    """
    age = atoms.age_days(now_ms)
    sums = Sums(atoms, age, len(now_ms) if now_ms.shape else None, spec)
    profiles = sums.profiles
    confidence = sums.effective[..., sums.bank.fast]
    confidence = confidence / (confidence + spec.view.drift_prior)
    cosine, jensen_shannon = _drift(profiles)
    tenure = np.zeros(now_ms.shape)
    np.maximum.at(tenure.reshape(-1), atoms.row, age)
    return {
        "now_ms": now_ms,
        "ring": ring,
        "counts": sums.counts,
        "power": sums.power,
        "rates": sums.rates,
        "intensity": sums.intensity,
        "effective": sums.effective.take(sums.bank.shown, axis=-1),
        "fast": profiles[..., 0, :],
        "slow": profiles[..., 1, :],
        "drift_cosine": confidence * cosine,
        "drift_jensen_shannon": confidence * jensen_shannon,
        "tenure_days": tenure[()],
        "num_events": sums.num_events,
        **_sessions(ring, now_ms, session, spec.view),
    }


def _sessions(ring: Interactions, now_ms: Any, session: Any, reading: ViewSpec) -> dict[str, Any]:
    """What the ring's sessions are, and what they say of how often the user comes."""
    ts, key = sessions.with_request(ring, now_ms=now_ms, session=session)
    begins = sessions.begins(ts, key, reading.session_gap)
    begins[..., :-1] &= ring["action"] > 0  # padding is no session
    found = visits(ts[..., :-1], begins[..., :-1])
    asked = zip(now_ms.reshape(-1).tolist(), (~begins[..., -1]).reshape(-1).tolist(), strict=True)
    rows = [_rhythm(one, *moment, reading) for one, moment in zip(found, asked, strict=True)]
    columns = rows[0] if not now_ms.shape else map(np.array, zip(*rows, strict=True))
    return {"session_rank": sessions.ranked(begins), **dict(zip(_RHYTHM, columns, strict=True))}


_RHYTHM = (
    "num_sessions", "gap_days", "recency_days", "burstiness", "overdue", "dormancy", "tempering"
)  # fmt: skip


def _rhythm(one: Visits, now_ms: int, current: bool, reading: ViewSpec) -> tuple[float, ...]:
    """The fields `_RHYTHM` of one reading."""
    _, burstiness, _, _, overdue, survives = one.rhythm(now_ms, reading.rhythm)
    tempering = temper(one.silence(now_ms, current), reading.return_half_life)
    days = one.gap_days(), one.recency_days(now_ms)
    return one.num, *days, burstiness, overdue, 1.0 - survives, tempering


def _drift(profiles: Floats) -> tuple[Any, Any]:
    """Of profiles `(..., 2, K)` the cosine distance, and the divergence of Jensen and Shannon.

    Both are `(...)` and between 0 and 1, the latter in bits (Lin 1991).
    """
    # Where a share is 0 its terms are 0, whatever finite number stands for the logarithm.
    some = profiles + TINY
    fast, slow = some[..., 0, :], some[..., 1, :]
    bits = np.log2(some / ((fast + slow) / 2)[..., None, :])
    terms = np.empty((*profiles.shape[:-2], 5, profiles.shape[-1]))
    np.multiply(profiles, bits, out=terms[..., :2, :])
    np.multiply(profiles, profiles, out=terms[..., 2:4, :])
    np.multiply(fast, slow, out=terms[..., 4, :])
    bits_fast, bits_slow, squares_fast, squares_slow, product = np.add.reduce(terms, axis=-1).T
    cosine = product / (np.sqrt(squares_fast * squares_slow) + TINY)
    return _positive(1.0 - cosine), _positive((bits_fast + bits_slow) / 2)


def _positive(x: Any) -> Any:
    """`np.maximum(x, 0.0)`, which on a single number costs ten times more."""
    return (x + abs(x)) / 2


def user_features(seen: MemoryView) -> NDArray[np.float32]:
    """`(F,)`, or `(B, F)` of many: the long-term level as numbers of order one.

    Names are in `user_feature_names`.
    """
    # Arrays of one are as dear as of many: what goes through the same function goes together.
    gone = np.where(np.isfinite(seen.recency_days), seen.recency_days, 3650.0)
    tenure, num = seen.tenure_days, seen.num_events
    grown = gone, tenure, num, seen.num_sessions, seen.gap_days, seen.overdue, seen.intensity
    logs = np.log1p(np.array(grown, np.float64)).T / (4, 4, 4, 2, 4, 2, 1)
    level = num > 0, seen.burstiness, seen.dormancy, seen.tempering
    plain = np.array((*level, seen.drift_cosine, seen.drift_jensen_shannon), np.float64).T
    counts = np.log1p(seen.counts) / 2
    parts = [
        plain[..., :1],
        logs[..., :-1],
        plain[..., 1:],
        logs[..., -1:],
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
