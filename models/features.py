"""From memories and a catalogue to the tensors that retriever and ranker share.

Shapes: B requests, C candidates, R interactions of the ring, L newest of them, I places of the
catalogue, F numbers of the user level, X context fields, H half-lives, G text grams.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from models.catalogue import Catalogue
from models.config import DAY_MS, Config, Duration
from models.events import POLARITY, Interactions
from models.memory import Popularity, ViewSpec, sessions
from models.text import hashed

LEVELS: Final = ("interaction", "session", "user")
"""The three levels of memory, in the order of every mask over them."""
MAX_SESSION_RANK = 7
NUM_ACTIONS = 64
"""Rows of an action embedding: codes of the vocabulary stay below it."""


class FeatureConfig(Config):
    """What models read of a memory, of an item and of a request."""

    history: int = Field(100, gt=0)
    """Newest interactions read one by one, at most the ring's capacity; the counts of a candidate
    are over the whole ring."""
    levels: tuple[Literal["interaction", "session", "user"], ...] = LEVELS
    """Levels of memory that models may read at all; with none they are a control without memory."""
    match_half_lives: tuple[Duration, ...] = (7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
    """How fast a candidate's own past with the user fades."""
    popularity_half_lives: tuple[Duration, ...] = (3 * DAY_MS, 14 * DAY_MS, 90 * DAY_MS)
    popularity_step: Duration = Field(DAY_MS, gt=0)
    """How often item memory is read anew: requests see the whole steps before theirs. A day for a
    shop, minutes where things live for hours."""
    context: tuple[str, ...] = ()
    """Fields that a request carries beside the user, as texts."""
    context_buckets: int = Field(64, ge=2)
    id_min_count: int = Field(0, ge=0)
    """How often an item must occur in what trains for an id of its own; 0: every item of the
    catalogue has one, whether it occurs or not."""
    id_overflow: int = Field(0, ge=0)
    """Ids that rarer items share, by a hash of their own; 0: such items have none. An item that
    training never met has none either way."""
    text_buckets: int = Field(1 << 14, ge=2)
    text_grams: int = Field(48, gt=0)


@dataclass(frozen=True)
class UserSide:
    """What a request knows of its user, computed once and met by all candidates."""

    item: Tensor
    """`(B, L)` places, newest last; 0 where there is none."""
    action: Tensor
    """`(B, L)` action codes, 0 before the first."""
    age_days: Tensor
    """`(B, L)`."""
    session: Tensor
    """`(B, L)` 0 in the session going on, 1 in the one before, up to `MAX_SESSION_RANK`."""
    recent: Tensor
    """`(B, L)` bool: readable as interaction memory."""
    sessions: Tensor
    """`(B, L)` bool: readable as session memory."""
    life_item: Tensor
    """`(B, R)` places of all that the ring remembers of deeds that speak for their item, 0 for the
    rest: read for each candidate, as part of the user level."""
    life_days: Tensor
    """`(B, R)` their ages."""
    long: Tensor
    """`(B, F)` user memory; `models.memory.user_features`."""
    context: Tensor
    """`(B, X)` hashed context values, 0 unknown."""
    now_days: Tensor
    """`(B,)` days since 1970, double: a float would round some evenings into the next day."""

    def __len__(self) -> int:
        return len(self.now_days)

    def keep(self, levels: Tensor) -> UserSide:
        """The same with only some levels of memory readable; `levels` is `(B, 3)` bool."""
        interaction, session, user = levels.unbind(1)
        return replace(
            self,
            recent=self.recent & interaction[:, None],
            sessions=self.sessions & session[:, None],
            life_item=self.life_item * user[:, None],
            long=self.long * user[:, None],
        )

    def to(self, device: torch.device | str) -> UserSide:
        """All tensors on a device."""
        return UserSide(**{name: value.to(device) for name, value in vars(self).items()})


def user_side(
    ring: Interactions,
    *,
    item: NDArray[np.int64],
    now_ms: NDArray[np.int64],
    session: NDArray[np.uint64],
    long: NDArray[np.float32],
    context: NDArray[np.int64],
    view: ViewSpec,
    features: FeatureConfig | None = None,
) -> UserSide:
    """Tensors of B memories.

    Args:
        ring: `(B, R)` the interactions of a ring, newest last, zero records before.
        item: `(B, R)` their places in the catalogue.
        now_ms: `(B,)`.
        session: `(B,)` key of the session that the request names, 0 for none.
        long: `(B, F)`.
        context: `(B, X)`.
        features: how many of the ring are read one by one, and which levels; None: all.
    """
    spoken, places = POLARITY[ring["action"]] > 0, item
    whole_age = np.maximum(now_ms[:, None] - ring["ts"], 0) / DAY_MS
    if features is not None:
        ring, item = ring[:, -features.history :], item[:, -features.history :]
    present = ring["action"] > 0
    rank = sessions.ranks(ring, now_ms=now_ms, session=session, gap_ms=view.session_gap)
    age = np.maximum(now_ms[:, None] - ring["ts"], 0) / DAY_MS
    mask = torch.from_numpy(present)
    side = UserSide(
        item=torch.from_numpy(np.where(present, item, 0)),
        action=torch.from_numpy(ring["action"].astype(np.int64)),
        age_days=torch.from_numpy(np.where(present, age, 0.0).astype(np.float32)),
        session=torch.from_numpy(np.clip(rank, 0, MAX_SESSION_RANK).astype(np.int64)),
        recent=mask,
        sessions=mask,
        life_item=torch.from_numpy(np.where(spoken, places, 0)),
        life_days=torch.from_numpy(np.where(spoken, whole_age, 0.0).astype(np.float32)),
        long=torch.from_numpy(long),
        context=torch.from_numpy(context),
        now_days=torch.from_numpy(now_ms / DAY_MS),
    )
    if features is None or set(features.levels) == set(LEVELS):
        return side
    kept = torch.tensor([level in features.levels for level in LEVELS])
    return side.keep(kept.expand(len(side), -1))


def context_codes(
    columns: Sequence[Sequence[str | None]], config: FeatureConfig, *, num: int
) -> NDArray[np.int64]:
    """`(B, X)` buckets of context texts, given field by field: X columns of B = `num` values."""
    codes = np.zeros((num, len(columns)), np.int64)
    for field, column in enumerate(columns):
        known = {text: 1 + zlib.crc32(text.encode()) for text in set(column) if text}
        codes[:, field] = [known.get(text or "", 0) for text in column]
    return np.where(codes > 0, 1 + (codes - 1) % (config.context_buckets - 1), 0)


class ItemSide(nn.Module):
    """What models know of each item beside its id: buffers `(I, ...)`, row 0 the unknown item.

    Derived from the catalogue, so they travel with the model to a device but not to its file.
    """

    categories: Tensor
    """`(I, K)` codes."""
    numbers: Tensor
    """`(I, N)`."""
    text: Tensor
    """`(I, G)` hashed grams, 0 for padding."""
    first_seen_days: Tensor
    """`(I,)` days since 1970, double."""

    def __init__(self, catalogue: Catalogue, config: FeatureConfig) -> None:
        super().__init__()
        buffers = {
            "categories": torch.from_numpy(catalogue.categories),
            "numbers": torch.from_numpy(catalogue.numbers),
            "text": grams(catalogue.texts, config),
            "first_seen_days": torch.from_numpy(catalogue.first_seen_ms / DAY_MS),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)


def grams(texts: Sequence[str], config: FeatureConfig) -> Tensor:
    """`(N, G)` hashed grams of texts, words first, padded with 0 and cut at `text_grams`."""
    found = np.zeros((len(texts), config.text_grams), np.int64)
    for row, text in enumerate(texts):
        buckets = hashed(text, config.text_buckets)[: config.text_grams]
        found[row, : len(buckets)] = buckets
    return torch.from_numpy(found)


MAX_TABLE_BYTES = 512 << 20
"""Memory that tables of item memory take at once; the oldest made is let go first."""


class PopularityTable:
    """Item memory as a table per step, read by `(step, item)`; made when first needed.

    A table has `(I, H)` entries of log(1 + decayed count), scaled to order one.
    """

    def __init__(self, popularity: Popularity, half_lives: tuple[int, ...]) -> None:
        self.popularity = popularity
        self._half_lives = half_lives
        self._steps: dict[int, Tensor] = {}
        self._bytes = 4 * popularity.counts.shape[1] * len(half_lives)

    def steps(self, now_days: Tensor) -> tuple[list[int], Tensor]:
        """The steps that moments `(B,)` lie in, and `(B,)` which of them each one does."""
        number = (now_days * (DAY_MS / self.popularity.step_ms)).floor().long()
        steps, where = torch.unique(number, return_inverse=True)
        return steps.tolist(), where

    def step(self, step: int) -> Tensor:
        """`(I, H)` as of the beginning of a step."""
        if step not in self._steps:
            counts = self.popularity.read(step * self.popularity.step_ms, self._half_lives)
            self._steps[step] = torch.from_numpy(np.log1p(counts) / 4)
            while len(self._steps) > 1 and len(self._steps) * self._bytes > MAX_TABLE_BYTES:
                del self._steps[next(iter(self._steps))]
        return self._steps[step]

    def read(self, now_days: Tensor, candidates: Tensor) -> Tensor:
        """`(B, C, H)` of candidates `(B, C)` at each request's moment `(B,)`."""
        steps, where = self.steps(now_days)
        tables = [self.step(step) for step in steps]
        found = torch.empty(*candidates.shape, len(self._half_lives))
        for number, table in enumerate(tables):
            rows = where == number
            found[rows] = table[candidates[rows]]
        return found
