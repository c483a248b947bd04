"""Negative memory: what was refused rests and comes back slowly; what is ignored wears out.

A refusal is a hard pause and then a straight ramp back to 1: it fades by its own clock, and neither
by being one event among many nor at a half-life of interest. An impression without interest after
it is a small refusal, so it is counted with decay, and the first few cost nothing.

Interest lifts both. Whoever views, saves or buys an item after having refused it had to seek it
out, since a refused item is not offered: the refusal is over. Only the memory of that interest
must last as long as the refusal's: where the ring has lost it, the refusal speaks again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

import models.memory.sessions as sessions
from models.config import DAY_MS, Config, Duration
from models.events import ACTIONS, POLARITY, Interactions
from models.memory.kernels import exponential

Floats = NDArray[np.float64]


class Refusal(Config):
    """How long a refused item stays away, and how long it takes to be as welcome as before."""

    action: str
    pause: Duration = Field(ge=0)
    """The item is not offered at all."""
    ramp: Duration = Field(ge=0)
    """After the pause its multiplier rises in a straight line from 0 to 1."""

    @field_validator("action")
    @classmethod
    def _refuses(cls, action: str) -> str:
        refusals = sorted(name for name, word in ACTIONS.items() if word.polarity < 0)
        if action not in refusals:
            raise ValueError(f"{action!r} refuses nothing; the actions that do are {refusals}")
        return action


class NegativeSpec(Config):
    """What refusals and ignored impressions do to an item."""

    refusals: tuple[Refusal, ...] = (
        # 14 and 140 days are those of Twitter's "see fewer" (FeedbackFatigueScorer, 2023).
        Refusal(action="dismiss", pause=14 * DAY_MS, ramp=140 * DAY_MS),
        Refusal(action="dislike", pause=14 * DAY_MS, ramp=140 * DAY_MS),
        # A no to this offer at this time is weaker than one to the thing itself.
        Refusal(action="decline", pause=7 * DAY_MS, ramp=60 * DAY_MS),
        Refusal(action="cancel", pause=7 * DAY_MS, ramp=60 * DAY_MS),
    )
    """At most one per action; an action left out costs nothing."""
    fatigue_half_life: Duration = Field(7 * DAY_MS, gt=0)
    """Of an ignored impression."""
    free: float = Field(3.0, ge=0)
    """Ignored impressions, after decay, that cost nothing."""
    fatigue_strength: float = Field(0.3, ge=0)
    """The multiplier is `1 / (1 + strength * excess)`, excess being impressions above `free`."""

    @field_validator("refusals")
    @classmethod
    def _distinct(cls, refusals: tuple[Refusal, ...]) -> tuple[Refusal, ...]:
        if len({refusal.action for refusal in refusals}) < len(refusals):
            raise ValueError("refusals: an action is there twice; which one should hold?")
        return refusals


def attraction(
    shown: Interactions,
    refused: Interactions,
    ring: Interactions,
    items: NDArray[np.uint64],
    *,
    now_ms: int,
    gap_ms: int,
    spec: NegativeSpec,
) -> Floats:
    """`(C,)` multipliers in [0, 1] for candidates: 0 not now, 1 nothing stands against it.

    The cost is that of the memory, and one binary search for each candidate.

    Args:
        shown: impressions of one person; those that stand in `ring` count as well.
        refused: refusals of one person; again those in `ring` count as well, and none twice.
        ring: recent interactions, read for events of interest.
        items: `(C,)` item keys; 0 is no item, and nothing stands against it.
        gap_ms: silence that ends a session where no session id is given.
    """
    events = _of_items(shown, refused, ring)
    if not len(events):
        return np.ones(len(items))
    known, which = np.unique(events["item"], return_inverse=True)
    stands = _after_interest(events, which)
    multiplier = _refusals(events, which, stands, num=len(known), now_ms=now_ms, spec=spec)
    ignored = events["action"] == ACTIONS["impression"].code
    ignored[ignored] = _last_of_session(events.compress(ignored), which[ignored], gap_ms)
    ignored &= stands
    age_days = np.maximum(now_ms - events["ts"][ignored], 0) / DAY_MS
    weight = exponential(age_days, spec.fatigue_half_life)
    tired = np.bincount(which[ignored], weight, len(known))
    multiplier /= 1.0 + spec.fatigue_strength * np.maximum(tired - spec.free, 0.0)
    place = np.minimum(np.searchsorted(known, items), len(known) - 1)
    return np.where(known[place] == items, multiplier[place], 1.0)


def _of_items(*cells: Interactions) -> Interactions:
    """`(M,)` all that are of an item, in the one order of all: "after" is a matter of place."""
    events = np.concatenate(cells)
    order = np.lexsort((events["event"], events["ts"]))
    # `take` moves records whole, where an index would copy them field by field.
    ordered: Interactions = events.take(order[events["item"][order] != 0])
    return ordered


def _after_interest(events: Interactions, which: NDArray[np.intp]) -> NDArray[np.bool_]:
    """`(M,)` of events in time order: whether no interest in their item comes later."""
    place = np.arange(len(events))
    interest = POLARITY[events["action"]] > 0
    last = np.full(len(events), -1)
    np.maximum.at(last, which[interest], place[interest])
    return np.asarray(place > last[which])


def _refusals(
    events: Interactions,
    which: NDArray[np.intp],
    stands: NDArray[np.bool_],
    *,
    num: int,
    now_ms: int,
    spec: NegativeSpec,
) -> Floats:
    """`(num,)` the least that any refusal leaves of each item; the same one twice is as one."""
    pause, ramp = np.zeros(256), np.zeros(256)
    for refusal in spec.refusals:
        code = ACTIONS[refusal.action].code
        # No ramp is one of a millisecond.
        pause[code], ramp[code] = refusal.pause, max(refusal.ramp, 1)
    action = events["action"]
    refuses = np.flatnonzero(stands & (ramp[action] > 0))
    action = action[refuses]
    left = (now_ms - events["ts"][refuses] - pause[action]) / ramp[action]
    multiplier = np.ones(num)
    np.minimum.at(multiplier, which[refuses], np.clip(left, 0.0, 1.0))
    return multiplier


def _last_of_session(
    impressions: Interactions, which: NDArray[np.intp], gap_ms: int
) -> NDArray[np.bool_]:
    """`(M,)` one impression per item and session: a list that is drawn again shows nothing new.

    It is the newest, so where interest came after that one, it came after all of its session.
    """
    session = impressions["session"].copy()
    # Sessions without an id get a number, counted down from 2^64 - 1. That a hash of an id is among
    # these few is as unlikely as that two hashes are equal.
    number = np.cumsum(sessions.starts(impressions, gap_ms), dtype=np.uint64)
    session[session == 0] = ~number[session == 0]
    order = np.lexsort((session, which))  # stable: in each group by time
    item, session = which[order], session[order]
    last = np.ones(len(order), bool)
    last[:-1] = (item[1:] != item[:-1]) | (session[1:] != session[:-1])
    kept = np.zeros(len(order), bool)
    kept[order[last]] = True
    return kept
