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
    begins = np.ones(interactions.shape, bool)
    before, after = interactions[..., :-1], interactions[..., 1:]
    named = (before["session"] != 0) & (after["session"] != 0)
    begins[..., 1:] = np.where(
        named,
        before["session"] != after["session"],
        after["ts"] - before["ts"] > gap_ms,
    )
    return begins


def is_current(
    interactions: Interactions, *, now_ms: ArrayLike, session: ArrayLike, gap_ms: int
) -> NDArray[np.bool_]:
    """`(...)`: whether the newest interaction belongs to the session going on at `now_ms`.

    Args:
        now_ms: `(...)`.
        session: `(...)` the key of the session id that the request names; 0 where it names none.
    """
    if not interactions.shape[-1]:
        return np.zeros(interactions.shape[:-1], bool)
    last = interactions[..., -1]
    named = (np.asarray(session) != 0) & (last["session"] != 0)
    silence = np.asarray(now_ms) - last["ts"]
    current: NDArray[np.bool_] = np.where(named, last["session"] == session, silence <= gap_ms)
    return current


def ranks(
    interactions: Interactions, *, now_ms: ArrayLike, session: ArrayLike, gap_ms: int
) -> NDArray[np.int16]:
    """`(..., N)`: 0 in the session going on, 1 in the one before it, and so on."""
    begins = starts(interactions, gap_ms)
    current = is_current(interactions, now_ms=now_ms, session=session, gap_ms=gap_ms)
    return ranked(begins, current)


def ranked(begins: NDArray[np.bool_], current: NDArray[np.bool_]) -> NDArray[np.int16]:
    """The same from `starts` `(..., N)` and `is_current` `(...)`."""
    later = np.cumsum(begins[..., ::-1], axis=-1, dtype=np.int16)[..., ::-1] - begins
    return np.asarray(later + np.where(current, 0, 1)[..., None], np.int16)
