"""Sessions: a fold over interactions in time order, by given session id or else by a silence.

The last axis is time, oldest first; leading axes are as many users as one likes. Rings of unequal
length are padded in front with zero records, which no result for the others depends on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.events import Interactions


def starts(interactions: Interactions, gap_ms: int) -> NDArray[np.bool_]:
    """`(..., N)`: whether a new session begins here.

    Two neighbours that both carry a session id are of one session when the ids are equal;
    otherwise when at most `gap_ms` lie between them.
    """
    # Columns of their own: records have odd lengths, and each column is read several times.
    ts, session = (np.ascontiguousarray(interactions[name]) for name in ("ts", "session"))
    return begins(ts, session, gap_ms)


def begins(ts_ms: NDArray[np.int64], session: NDArray[np.uint64], gap_ms: int) -> NDArray[np.bool_]:
    """The same from columns `(..., N)`."""
    found = np.empty(ts_ms.shape, bool)
    found[..., :1], later = True, found[..., 1:]
    np.greater(ts_ms[..., 1:] - ts_ms[..., :-1], gap_ms, out=later)
    named = session != 0
    both = named[..., 1:] & named[..., :-1]
    np.not_equal(session[..., 1:], session[..., :-1], out=later, where=both)
    return found


def with_request(
    interactions: Interactions, *, now_ms: ArrayLike, session: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Times and session keys `(..., N + 1)`, the request's at the end like one more interaction.

    Where no session begins with it, the newest one is going on.

    Args:
        now_ms: `(...)`.
        session: `(...)` the key of the session id that the request names; 0 where it names none.
    """
    shape = *interactions.shape[:-1], interactions.shape[-1] + 1
    ts, key = np.empty(shape, np.int64), np.empty(shape, np.uint64)
    ts[..., :-1], ts[..., -1] = interactions["ts"], now_ms
    key[..., :-1], key[..., -1] = interactions["session"], session
    return ts, key


def is_current(
    interactions: Interactions, *, now_ms: ArrayLike, session: ArrayLike, gap_ms: int
) -> NDArray[np.bool_]:
    """`(...)`: whether the newest interaction belongs to the session going on at `now_ms`.

    Args:
        now_ms: `(...)`.
        session: `(...)` the key of the session id that the request names; 0 where it names none.
    """
    newest = interactions[..., -1:]
    found = begins(*with_request(newest, now_ms=now_ms, session=session), gap_ms)
    current: NDArray[np.bool_] = ~found[..., -1]
    return current


def ranks(
    interactions: Interactions, *, now_ms: ArrayLike, session: ArrayLike, gap_ms: int
) -> NDArray[np.int16]:
    """`(..., N)`: 0 in the session going on, 1 in the one before it, and so on."""
    return ranked(begins(*with_request(interactions, now_ms=now_ms, session=session), gap_ms))


def ranked(found: NDArray[np.bool_]) -> NDArray[np.int16]:
    """`(..., N)` the same from where sessions begin, `(..., N + 1)` with the request at the end."""
    begun = np.add.accumulate(found, axis=-1, dtype=np.int16)
    rank: NDArray[np.int16] = begun[..., -1:] - begun[..., :-1]
    return rank
