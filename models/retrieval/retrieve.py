"""Retrieve: memory and query to candidates, from several sources at once.

B requests, C candidates, I places of the catalogue, H popularity half-lives, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.catalogue import Catalogue
from models.features import FeatureConfig, PopularityTable, UserSide, grams
from models.retrieval import sources
from models.retrieval.index import VectorIndex
from models.retrieval.lexical import LexicalIndex
from models.retrieval.sources import CandidateConfig
from models.retrieval.towers import TwoTower


@dataclass(frozen=True)
class Candidates:
    """What retrieval found."""

    places: Tensor
    """`(B, C)`, 0 after a request's last."""
    provenance: Tensor
    """`(B, C)` bit s: `SOURCES[s]` brought it."""
    relevance: Tensor
    """`(B, C)` in 0..1: agreement with the query, best candidate 1; all 1 without a query."""


class Retriever:
    """All sources of one release. Inference only; `refresh` after the weights changed.

    Args:
        vectors: `(I, D)` of the items, as stored with these very weights; None: encoded now.
    """

    def __init__(
        self,
        net: TwoTower,
        *,
        catalogue: Catalogue,
        popularity: PopularityTable,
        features: FeatureConfig,
        config: CandidateConfig,
        vectors: Tensor | None = None,
    ) -> None:
        self.net, self.catalogue, self.popularity = net, catalogue, popularity
        self.features, self.config = features, config
        self._first_seen = np.sort(net.item.items.first_seen_days.numpy(force=True)[1:])
        if vectors is None:
            self.refresh()
        else:
            self.index = VectorIndex(vectors)

    @cached_property
    def lexical(self) -> LexicalIndex:
        """BM25 over the catalogue; training never asks for it."""
        return LexicalIndex(self.catalogue.texts)

    @torch.no_grad()
    def refresh(self) -> None:
        """Encodes all items anew."""
        self.net.eval()
        places = torch.arange(len(self.catalogue), device=self.device)
        self.index = VectorIndex(self.net.item_vectors(places).cpu())

    @property
    def device(self) -> torch.device:
        """Where the towers live; what goes in and comes out is on the CPU."""
        return self.net.trend.weight.device

    @torch.no_grad()
    def nearest(self, user: UserSide, count: int, *, allowed: Tensor | None = None) -> Tensor:
        """`(B, K)` the towers' ranking of all that each request could know, 0 for none."""
        self.net.eval()
        asked = self.net.user_query(user.to(self.device)).to("cpu")
        bonus = asked.returning(len(self.catalogue))
        days, where = torch.unique(user.now_days.floor().long(), return_inverse=True)
        for number, day in enumerate(days):
            rows = where == number
            bonus[rows] += asked.trend[rows] @ self.popularity.day(int(day)).T
        known = self.known(user.now_days)
        return self.index.search(asked.vector, count, allowed=allowed, known=known, bonus=bonus)[0]

    def known(self, now_days: Tensor) -> Tensor:
        """`(B,)` the number of leading places that appeared before each request."""
        return torch.from_numpy(np.searchsorted(self._first_seen, now_days.numpy()) + 1)

    @torch.no_grad()
    def recommend(self, user: UserSide, *, allowed: Tensor | None = None) -> Candidates:
        """Candidates from memory alone. `allowed` is `(I,)` bool."""
        config, known = self.config, self.known(user.now_days)
        found = {
            "memory": sources.remembered(user, config.memory),
            "vector": self.nearest(user, config.vector, allowed=allowed),
            "trending": self._trending(user.now_days, allowed),
            "fresh": sources.fresh(known, config.fresh),
        }
        if allowed is not None:
            found = {name: places * allowed[places] for name, places in found.items()}
        places, provenance = sources.merge(found, config.total)
        return Candidates(places, provenance, torch.ones(places.shape))

    @torch.no_grad()
    def search(
        self, queries: Sequence[str], now_days: Tensor, *, allowed: Tensor | None = None
    ) -> Candidates:
        """Candidates that answer queries, `(B,)` texts; memory has its say in ranking."""
        self.net.eval()
        config, known = self.config, self.known(now_days)
        vectors = self.net.query_vectors(grams(queries, self.features).to(self.device)).cpu()
        nearest, _ = self.index.search(vectors, config.vector, allowed=allowed, known=known)
        lexical = torch.zeros(len(queries), config.lexical, dtype=torch.long)
        for row, (query, num) in enumerate(zip(queries, known.tolist(), strict=True)):
            mask = self._open(allowed, num)
            hits = self.lexical.search(query, config.lexical, allowed=mask)
            lexical[row, : len(hits)] = torch.from_numpy(hits)
        found = {"vector": nearest, "lexical": lexical}
        places, provenance = sources.merge(found, config.total)
        return Candidates(places, provenance, sources.fuse(places, found))

    def _open(self, allowed: Tensor | None, known: int) -> NDArray[np.bool_] | None:
        """`(I,)` what one request may find; None for everything, which costs a search less."""
        if known == len(self.catalogue):
            return None if allowed is None else allowed.numpy()
        appeared = np.arange(len(self.catalogue)) < known
        return appeared if allowed is None else appeared & allowed.numpy()

    def _trending(self, now_days: Tensor, allowed: Tensor | None) -> Tensor:
        """`(B, K)` by day; filtered before the best are taken."""
        days, where = torch.unique(now_days.floor().long(), return_inverse=True)
        tops = []
        for day in days:
            table = self.popularity.day(int(day))
            table = table if allowed is None else table * allowed[:, None]
            tops.append(sources.trending(table, self.config.trending))
        return torch.stack(tops)[where]
