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
from models.retrieval.successors import Successors
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
    followed: Tensor
    """`(B, C)` how much each follows what the user did; `models.retrieval.successors`."""

    def take(self, columns: Tensor) -> Candidates:
        """Some of each request's candidates, by number `(B, K)`."""
        return Candidates(**{n: value.gather(1, columns) for n, value in vars(self).items()})


class Retriever:
    """All sources of one release. Inference only; `refresh` after the weights changed.

    Args:
        vectors: `(I, D)` of the items, as stored with these very weights; None: encoded now.
        successors: what follows what, as of before every request; None: nothing follows anything,
            as in training.
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
        successors: Successors | None = None,
    ) -> None:
        self.successors = successors
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
        scores = asked.meeting(self.index.vectors) + asked.returning(len(self.catalogue))
        steps, where = self.popularity.steps(user.now_days)
        for number, step in enumerate(steps):
            rows = where == number
            scores[rows] += asked.trend[rows] @ self.popularity.step(step).T
        return scores

    def followed(self, user: UserSide) -> Tensor:
        """`(B, I)` how much each item follows what each user did."""
        if self.successors is None:
            return torch.zeros(len(user), len(self.catalogue))
        return self.successors.read(user)

    def worth(self, affinity: Tensor, followed: Tensor) -> Tensor:
        """What retrieval orders items by: both, at the weight that validation chose."""
        return affinity + self.net.follow.cpu() * followed

    def known(self, now_days: Tensor) -> Tensor:
        """`(B,)` the number of leading places that appeared before each request."""
        return torch.from_numpy(np.searchsorted(self._first_seen, now_days.numpy()) + 1)

    def unseen(self, seen: Tensor) -> Tensor | None:
        """`(B, I)` false at the places seen `(B, K)`; None where `config.drop_seen` is off."""
        if not self.config.drop_seen:
            return None
        places = torch.ones(len(seen), len(self.catalogue), dtype=torch.bool)
        return places.scatter_(1, seen.cpu(), value=False)

    def left(self, scores: Tensor, seen: Tensor) -> Tensor:
        """Scores `(B, I)`, the least there is where `unseen` is false."""
        open_ = self.unseen(seen)
        return scores if open_ is None else scores.masked_fill(~open_, float("-inf"))

    @torch.no_grad()
    def recommend(
        self, user: UserSide, *, allowed: Tensor | None = None, seen: Tensor | None = None
    ) -> Candidates:
        """Candidates from memory alone.

        Args:
            allowed: `(I,)` bool.
            seen: `(B, K)` places that `config.drop_seen` leaves out, 0 for none; by default those
                of the ring, all that a live request knows.
        """
        config, known = self.config, self.known(user.now_days)
        affinity, followed = self.affinity(user), self.followed(user)
        open_ = self.unseen(user.item if seen is None else seen)
        near = self.worth(affinity, followed)
        near = near if open_ is None else near.masked_fill(~open_, float("-inf"))
        found = {
            "memory": sources.remembered(user, config.memory),
            "vector": best(near, config.vector, allowed=allowed, known=known)[0],
            "trending": self._trending(user.now_days, allowed),
            "fresh": sources.fresh(known, config.fresh),
        }
        if allowed is not None:
            found = {name: places * allowed[places] for name, places in found.items()}
        if open_ is not None:
            found = {name: places * open_.gather(1, places) for name, places in found.items()}
        places, provenance = sources.merge(found, config.total)
        scores = (table.gather(1, places) for table in (affinity, followed))
        return Candidates(places, provenance, torch.ones(places.shape), *scores)

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
        return Candidates(places, provenance, sources.fuse(places, found), *self._of(user, places))

    def given(self, user: UserSide, places: Tensor) -> Candidates:
        """Candidates `(B, C)` that are already known, as if no source had brought them."""
        nothing = torch.zeros_like(places)
        return Candidates(places, nothing, torch.ones(places.shape), *self._of(user, places))

    def _of(self, user: UserSide, places: Tensor) -> tuple[Tensor, Tensor]:
        """Affinity and what follows what, `(B, C)` each, of places."""
        return self.affinity(user).gather(1, places), self.followed(user).gather(1, places)

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
