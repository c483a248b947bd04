"""Retrieve: memory, or a query, to candidates. B = 1; C candidates, I places of the catalogue."""

from __future__ import annotations

import torch

from models.features import UserSide
from models.retrieval.retrieve import Candidates, Retriever


class Retrieve:
    """The stage: every source at once, filters first, padding left out."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    def __call__(
        self, user: UserSide, *, query: str | None = None, allowed: torch.Tensor | None = None
    ) -> Candidates:
        """Candidates `(1, C)`, all real; C may be 0.

        Args:
            query: None to go by memory alone.
            allowed: `(I,)` bool, the places that filters and exclusions leave.
        """
        if query is None:
            found = self._retriever.recommend(user, allowed=allowed)
        else:
            found = self._retriever.search([query], user, allowed=allowed)
        return found.take((found.places > 0).nonzero()[None, :, 1])
