"""What a memory keeps (`StateSpec`) and how it is read (`ViewSpec`).

Only the first shapes stored bytes: changing it needs a rebuild. The second can change at will.
"""

from __future__ import annotations

import functools
from itertools import pairwise

from pydantic import Field, field_validator, model_validator

from models.config import DAY_MS, Config, Duration, digest_of
from models.events import ACTIONS
from models.memory.negative import NegativeSpec
from models.memory.rhythm import RhythmSpec

HOUR_MS = 3_600_000


class TileLevel(Config):
    """One resolution of counting: tiles of `hop`, the newest `keep` of them."""

    hop: Duration = Field(ge=1_000)  # a tile's index has 36 bits: seconds reach the year 4147
    keep: int = Field(gt=0, lt=1 << 16)


class StateSpec(Config):
    """The stored part of a memory."""

    ring: int = Field(128, gt=0, le=4096)
    """Number of single interactions kept in order."""
    shown: int = Field(64, ge=0, le=4096)
    """Number of impressions kept apart, so that what was merely shown pushes nothing out of the
    ring. 0: they stand in the ring like everything else."""
    refused: int = Field(32, ge=0, le=4096)
    """Number of refusals (negative polarity) kept beyond the ring, so that a pause outlasts it."""
    facts: int = Field(8, gt=0, le=4096)
    """Number of facts kept of each slot and source."""
    num_interests: int = Field(64, ge=2, le=4096)
    """Interest buckets, bucket 0 (unknown) included."""
    levels: tuple[TileLevel, ...] = (
        TileLevel(hop=HOUR_MS, keep=48),
        TileLevel(hop=DAY_MS, keep=64),
        TileLevel(hop=30 * DAY_MS, keep=36),
        TileLevel(hop=360 * DAY_MS, keep=16),
    )
    """Tile resolutions, fine to coarse."""

    def digest(self) -> str:
        """Sixteen hex digits of all that shapes stored bytes.

        A field that came later counts only where it is used, so that older states stay readable.
        """
        return _digest(self)

    @model_validator(mode="after")
    def _nested(self) -> StateSpec:
        if not 0 < len(self.levels) <= 8:
            raise ValueError("levels: between 1 and 8 are possible")
        for fine, coarse in pairwise(self.levels):
            if coarse.hop % fine.hop:
                raise ValueError(f"levels: hop {coarse.hop} ms is no multiple of {fine.hop} ms")
            if coarse.hop * (coarse.keep - 1) < fine.hop * fine.keep:
                raise ValueError(
                    f"levels: {coarse.keep} tiles of {coarse.hop} ms do not reach back as far as "
                    f"{fine.keep} of {fine.hop} ms; raise the coarse level's keep"
                )
        return self


_BEFORE = {"shown": 0, "refused": 0, "facts": 8}
"""What states were kept with before a field of `StateSpec` was there."""


@functools.lru_cache(maxsize=256)
def _digest(spec: StateSpec) -> str:
    same = {name for name, value in _BEFORE.items() if getattr(spec, name) == value}
    return digest_of(spec.model_dump(mode="json", exclude=same))


def _known(key: str, actions: tuple[str, ...]) -> None:
    unknown = [name for name in actions if name not in ACTIONS]
    if unknown or not actions or len(set(actions)) < len(actions):
        raise ValueError(
            f"{key}: distinct actions are needed; unknown {unknown}; the vocabulary is "
            f"{sorted(ACTIONS)}"
        )


class RateSpec(Config):
    """Decayed hits for each decayed try, drawn to a prior where little was tried.

    `tries` either hold the hits (accept of accept and decline: then it is a share), or go before
    them (click of impression).
    """

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    hits: tuple[str, ...]
    """Actions that count as success."""
    tries: tuple[str, ...] = Field(min_length=1)
    half_life: Duration = Field(90 * DAY_MS, gt=0)
    prior: float = Field(0.5, ge=0, le=1)
    """The rate of one of whom nothing is known."""
    strength: float = Field(4.0, gt=0)
    """Tries that the prior is worth: (hits + strength x prior) / (tries + strength)."""

    @model_validator(mode="after")
    def _actions(self) -> RateSpec:
        for name, actions in (("hits", self.hits), ("tries", self.tries)):
            _known(name, actions)
        return self


class PowerSpec(Config):
    """Decay by the power law, `((age + floor) / floor)^-exponent`."""

    exponent: float = Field(0.5, gt=0)
    floor: Duration = Field(HOUR_MS, gt=0)


class JumpSpec(Config):
    """What an event of interest brings: `size` more events, half of them within the half-life."""

    size: float = Field(ge=0, lt=1)
    half_life: Duration = Field(gt=0)


class HawkesSpec(Config):
    """A self-exciting process: events a day by themselves, and those that events bring."""

    base: float = Field(0.01, ge=0)
    jumps: tuple[JumpSpec, ...] = (
        JumpSpec(size=0.5, half_life=HOUR_MS),
        JumpSpec(size=0.3, half_life=30 * DAY_MS),
    )


class ViewSpec(Config):
    """The reading of a memory; no replay is needed after a change."""

    actions: tuple[str, ...] = ("purchase", "cancel")
    """The actions counted one by one; others still count in recency and sessions."""
    half_lives: tuple[Duration, ...] = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
    power: PowerSpec = PowerSpec()
    hawkes: HawkesSpec = HawkesSpec()
    rates: tuple[RateSpec, ...] = ()
    fast: Duration = Field(14 * DAY_MS, gt=0)
    """Half-life of the fast interest profile, against `slow` for drift."""
    slow: Duration = Field(180 * DAY_MS, gt=0)
    session_gap: Duration = Field(HOUR_MS // 2, gt=0)
    """A silence that ends a session where no session id is given."""
    drift_prior: float = Field(20.0, gt=0)
    """Pseudo-events: drift counts for half when the fast profile rests on this many. With 20 one
    level suits people who come daily and weekly (`tests/benchmarks/bench_drift.py`)."""
    rhythm: RhythmSpec = RhythmSpec()
    return_half_life: Duration = Field(60 * DAY_MS, gt=0)
    """Silence after which long memory counts for half when somebody comes back."""
    negative: NegativeSpec = NegativeSpec()

    @field_validator("actions")
    @classmethod
    def _named(cls, actions: tuple[str, ...]) -> tuple[str, ...]:
        _known("actions", actions)
        return actions

    @field_validator("half_lives")
    @classmethod
    def _positive(cls, half_lives: tuple[int, ...]) -> tuple[int, ...]:
        if not half_lives or min(half_lives) <= 0:
            raise ValueError("half_lives: at least one, all above zero")
        return half_lives


class MemorySpec(Config):
    """Both halves, as a config names them."""

    state: StateSpec = StateSpec()
    view: ViewSpec = ViewSpec()
