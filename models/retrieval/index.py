"""Exact vector search: every allowed item is scored, so a filter costs no recall.

B requests, I places of the catalogue, D width, K results.
"""

from __future__ import annotations

import torch
from torch import Tensor


class VectorIndex:
    """Inner-product search over item vectors `(I, D)`, place 0 never found."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def search(
        self,
        queries: Tensor,
        count: int,
        *,
        allowed: Tensor | None = None,
        known: Tensor | None = None,
        bonus: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best places and their scores, `(B, K)` each, best first; place 0 fills up.

        Args:
            queries: `(B, D)`.
            count: K.
            allowed: `(I,)` bool, the same for all requests.
            known: `(B,)` only the places below this number may be found: the items that a request
                could know of, in a catalogue ordered by first appearance.
            bonus: `(B, I)` added to the inner products.
        """
        scores = queries @ self.vectors.T
        if bonus is not None:
            scores += bonus
        scores[:, 0] = float("-inf")
        if allowed is not None:
            scores.masked_fill_(~allowed, float("-inf"))
        if known is not None:
            scores.masked_fill_(torch.arange(len(self.vectors)) >= known[:, None], float("-inf"))
        best, places = scores.topk(min(count, len(self.vectors)), dim=1)
        return places * torch.isfinite(best), best
