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

    def scores(self, queries: Tensor) -> Tensor:
        """`(B, I)` inner products of queries `(B, D)` with every item."""
        return queries @ self.vectors.T

    def search(
        self,
        queries: Tensor,
        count: int,
        *,
        allowed: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best places by inner product with queries `(B, D)`; see `best`."""
        return best(self.scores(queries), count, allowed=allowed, known=known)


def best(
    scores: Tensor, count: int, *, allowed: Tensor | None = None, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best places and their scores, `(B, K)` each, best first; place 0 fills up.

    Args:
        scores: `(B, I)`.
        count: K.
        allowed: `(I,)` bool, the same for all requests.
        known: `(B,)` only the places below this number may be found: the items that a request
            could know of, in a catalogue ordered by first appearance.
    """
    places = torch.arange(scores.shape[1])
    closed = (places == 0)[None]
    if allowed is not None:
        closed = closed | ~allowed
    if known is not None:
        closed = closed | (places >= known[:, None])
    found = scores.masked_fill(closed, float("-inf")).topk(min(count, len(places)), dim=1)
    return found.indices * torch.isfinite(found.values), found.values
