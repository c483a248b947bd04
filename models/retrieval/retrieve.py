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
from models.retrieval.index import VectorIndex, best
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
    affinity: Tensor
    """`(B, C)` the towers' score for what is remembered of the user."""

    def take(self, columns: Tensor) -> Candidates:
        """Some of each request's candidates, by number `(B, K)`."""
        return Candidates(**{n: value.gather(1, columns) for n, value in vars(self).items()})


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
            self.net.eval()
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
    def affinity(self, user: UserSide) -> Tensor:
        """`(B, I)` the towers' score of every item for what is remembered of each user."""
        asked = self.net.user_query(user.to(self.device)).to("cpu")
        scores = self.index.scores(asked.vector) + asked.returning(len(self.catalogue))
        steps, where = self.popularity.steps(user.now_days)
        for number, step in enumerate(steps):
            rows = where == number
            scores[rows] += asked.trend[rows] @ self.popularity.step(step).T
        return scores

    def known(self, now_days: Tensor) -> Tensor:
        """`(B,)` the number of leading places that appeared before each request."""
        return torch.from_numpy(np.searchsorted(self._first_seen, now_days.numpy()) + 1)

    @torch.no_grad()
    def recommend(self, user: UserSide, *, allowed: Tensor | None = None) -> Candidates:
        """Candidates from memory alone. `allowed` is `(I,)` bool."""
        config, known = self.config, self.known(user.now_days)
        affinity = self.affinity(user)
        found = {
            "memory": sources.remembered(user, config.memory),
            "vector": best(affinity, config.vector, allowed=allowed, known=known)[0],
            "trending": self._trending(user.now_days, allowed),
            "fresh": sources.fresh(known, config.fresh),
        }
        if allowed is not None:
            found = {name: places * allowed[places] for name, places in found.items()}
        places, provenance = sources.merge(found, config.total)
        ones = torch.ones(places.shape)
        return Candidates(places, provenance, ones, affinity.gather(1, places))

    @torch.no_grad()
    def search(
        self, queries: Sequence[str], user: UserSide, *, allowed: Tensor | None = None
    ) -> Candidates:
        """Candidates that answer queries, `(B,)` texts; memory has its say in ranking."""
        config, known = self.config, self.known(user.now_days)
        vectors = self.net.query_vectors(grams(queries, self.features).to(self.device)).cpu()
        nearest, _ = self.index.search(vectors, config.vector, allowed=allowed, known=known)
        lexical = torch.zeros(len(queries), config.lexical, dtype=torch.long)
        for row, (query, num) in enumerate(zip(queries, known.tolist(), strict=True)):
            mask = self._open(allowed, num)
            hits = self.lexical.search(query, config.lexical, allowed=mask)
            lexical[row, : len(hits)] = torch.from_numpy(hits)
        found = {"vector": nearest, "lexical": lexical}
        places, provenance = sources.merge(found, config.total)
        affinity = self.affinity(user).gather(1, places)
        return Candidates(places, provenance, sources.fuse(places, found), affinity)

    def given(self, user: UserSide, places: Tensor) -> Candidates:
        """Candidates `(B, C)` that are already known, as if no source had brought them."""
        nothing = torch.zeros_like(places)
        ones = torch.ones(places.shape)
        return Candidates(places, nothing, ones, self.affinity(user).gather(1, places))

    def _open(self, allowed: Tensor | None, known: int) -> NDArray[np.bool_] | None:
        """`(I,)` what one request may find; None for everything, which costs a search less."""
        if known == len(self.catalogue):
            return None if allowed is None else allowed.numpy()
        appeared = np.arange(len(self.catalogue)) < known
        return appeared if allowed is None else appeared & allowed.numpy()

    def _trending(self, now_days: Tensor, allowed: Tensor | None) -> Tensor:
        """`(B, K)` by step; filtered before the best are taken."""
        steps, where = self.popularity.steps(now_days)
        tops = []
        for step in steps:
            table = self.popularity.step(step)
            table = table if allowed is None else table * allowed[:, None]
            tops.append(sources.trending(table, self.config.trending))
        return torch.stack(tops)[where]
