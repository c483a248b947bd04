"""Candidates from several sources, merged with provenance.

B requests, K candidates of one source, C candidates in all, I places of the catalogue.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.config import Config
from models.features import UserSide
from models.layers import positive

SOURCES = ("memory", "vector", "trending", "fresh", "lexical")
"""In the order of the bits of provenance, and of priority where candidates are cut."""


class CandidateConfig(Config):
    """How many candidates each source may bring."""

    memory: int = Field(60, ge=0)
    vector: int = Field(150, ge=0)
    trending: int = Field(60, ge=0)
    fresh: int = Field(10, ge=0)
    lexical: int = Field(150, ge=0)
    total: int = Field(240, gt=0)
    drop_seen: bool = False
    """Recommendations leave out what the user met before, liked or not: where nobody takes the same
    thing twice. Searches do not: who searches for a thing wants to find it."""

    @model_validator(mode="after")
    def _search_has_a_source(self) -> CandidateConfig:
        if not self.vector + self.lexical:
            raise ValueError("vector and lexical are both 0: search has nowhere to look")
        return self


def remembered(user: UserSide, count: int) -> Tensor:
    """`(B, K)` the user's own items: most weight first, each event weighing 1 / (1 + days).

    A row with fewer items ends in zeros.
    """
    spoken = user.recent & positive(user) & (user.item > 0)
    weight = spoken / (1 + user.age_days)
    same = user.item[:, :, None] == user.item[:, None]
    total = (same * weight[:, None]).sum(2)
    newest = ~(same & spoken[:, None]).triu(1).any(2)  # one place speaks for each item
    total = total.masked_fill(~(spoken & newest), 0.0)
    best, where = total.topk(min(count, total.shape[1]), dim=1)
    return user.item.gather(1, where) * (best > 0)


def trending(popularity: Tensor, count: int) -> Tensor:
    """`(K,)` items with the highest fast-decaying popularity `(I, H)`; zeros after the last."""
    best, items = popularity[:, 0].topk(min(count, len(popularity)))
    return items * (best > 0)


def fresh(known: Tensor, count: int) -> Tensor:
    """`(B, K)` the newest items that each request may know of: bounded exploration.

    Args:
        known: `(B,)` number of leading places known, in a catalogue ordered by first appearance.
    """
    newest = known[:, None] - 1 - torch.arange(count)
    return newest.clamp(min=0)


def fuse(places: Tensor, found: dict[str, Tensor], damping: int = 60) -> Tensor:
    """`(B, C)` reciprocal rank fusion of the sources' orders, the best candidate at 1.

    Sum over sources of 1 / (damping + rank) (Cormack, Clarke, Buettcher, SIGIR 2009).
    """
    total = torch.zeros(places.shape)
    for source in found.values():
        same = (places[:, :, None] == source[:, None]) & (places > 0)[:, :, None]
        rank = torch.arange(1, source.shape[1] + 1)
        total += (same / (damping + rank)).amax(2) if source.shape[1] else 0
    return total / total.amax(1, keepdim=True).clamp(min=1e-9)


def merge(found: dict[str, Tensor], total: int) -> tuple[Tensor, Tensor]:
    """Candidates of all sources, each once.

    Args:
        found: source name to `(B, K)` places, best first, 0 for none.
        total: at most this many; sources take turns, so that each brings its best.

    Returns:
        places `(B, C)`, 0 after a request's last, and provenance `(B, C)`: bit s is set where
        `SOURCES[s]` brought the candidate.
    """
    names = [name for name in SOURCES if name in found]
    places = np.concatenate([found[name].numpy() for name in names], axis=1)
    rank = np.concatenate([np.arange(found[name].shape[1]) for name in names])
    bits = np.concatenate([np.full(found[n].shape[1], 1 << SOURCES.index(n)) for n in names])
    turn = np.argsort(rank, kind="stable")
    places, bits = places[:, turn], np.broadcast_to(bits[turn], places.shape)
    order = np.argsort(places, axis=1, kind="stable")  # equal places side by side, best first
    ordered, provenance = np.take_along_axis(places, order, 1), np.take_along_axis(bits, order, 1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = np.cumsum(first, axis=1) - 1
    joined = np.zeros(ordered.shape, np.int64)
    rows = np.arange(len(places))[:, None]
    np.bitwise_or.at(joined, (np.broadcast_to(rows, group.shape), group), provenance)
    keep = first & (ordered > 0)
    turns = np.where(keep, order, places.shape[1])
    best = np.argsort(turns, axis=1, kind="stable")[:, :total]
    chosen = np.take_along_axis(np.where(keep, ordered, 0), best, 1)
    own = np.take_along_axis(np.take_along_axis(joined, group, 1), best, 1)
    return torch.from_numpy(chosen), torch.from_numpy(np.where(chosen > 0, own, 0))
