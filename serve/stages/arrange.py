"""Arrange: candidates and their probabilities to the order of a slate, cut into pages.

B = 1; C candidates, O heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.model import Recommender
from models.ranking import arrange
from models.ranking.arrange import ArrangeConfig
from models.retrieval.retrieve import Candidates

ROW = np.dtype([("place", "<u4"), ("provenance", "u1"), ("score", "<f4")])
"""One candidate: its place in the catalogue, its sources, its score (nan: not ranked)."""


@dataclass(frozen=True)
class Slate:
    """Candidates, best first."""

    rows: NDArray[np.void]
    """`(n,)` of `ROW`."""
    first_rank: int = 1
    """Rank of the first row."""

    def cut(self, size: int) -> tuple[Slate, Slate]:
        """A page of at most `size`, and the rest."""
        page = Slate(self.rows[:size], self.first_rank)
        return page, Slate(self.rows[size:], self.first_rank + len(page.rows))


class Arrange:
    """The stage."""

    def __init__(self, recommender: Recommender, config: ArrangeConfig) -> None:
        self._heads, self._config = recommender.heads, config
        if not config.values:
            self._config = config.model_copy(update={"values": {recommender.target: 1.0}})

    def __call__(
        self,
        candidates: Candidates,
        probabilities: Tensor | None,
        *,
        search: bool,
        attraction: Tensor | None = None,
    ) -> Slate:
        """All candidates `(1, C)` in order.

        Args:
            probabilities: `(1, C, O)`; None where ranking was skipped: the order is retrieval's.
            search: whether agreement with the query counts, too.
            attraction: `(1, C)` what refusals and weariness have left of each item's worth, see
                `models.memory.negative`; an item without any is left out. None: all of it.
        """
        places = candidates.places
        if not places.shape[1]:
            return Slate(np.zeros(0, ROW))
        if probabilities is None:
            scores = torch.full(places.shape, torch.nan)
            agreed = (
                candidates.relevance if attraction is None else candidates.relevance * attraction
            )
            best = torch.argsort(-agreed, dim=1, stable=True)
        else:
            scores = arrange.value(probabilities, self._heads, self._config)
            scores = scores if attraction is None else scores * attraction
            if search:
                scores = arrange.mix(scores, candidates.relevance, self._config)
            best = arrange.order(scores, places)
        rows = np.zeros(places.shape[1], ROW)
        for name, column in (
            ("place", places),
            ("provenance", candidates.provenance),
            ("score", scores),
        ):
            rows[name] = column.gather(1, best)[0].numpy()
        if attraction is None:
            return Slate(rows)
        return Slate(rows[attraction.gather(1, best)[0].numpy() > 0])
