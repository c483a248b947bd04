"""Exact vector search: every allowed item is scored, so a filter costs no recall.

B requests, I places of the catalogue, D width, K results.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 1 << 24
"""Scores held at a time; more requests than fit are taken in turns."""


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
    ) -> tuple[Tensor, Tensor]:
        """The best places and their scores, `(B, K)` each, best first; place 0 fills up.

        Args:
            queries: `(B, D)`.
            count: K.
            allowed: `(I,)` bool, the same for all requests.
            known: `(B,)` only the places below this number may be found: the items that a request
                could know of, in a catalogue ordered by first appearance.
        """
        count = min(count, len(self.vectors))
        step = max(ROWS_AT_ONCE // len(self.vectors), 1)
        parts = [
            self._block(
                queries[i : i + step],
                count,
                allowed,
                None if known is None else known[i : i + step],
            )
            for i in range(0, len(queries), step)
        ]
        if not parts:
            return torch.zeros(0, count, dtype=torch.long), torch.zeros(0, count)
        return torch.cat([p for p, _ in parts]), torch.cat([s for _, s in parts])

    def _block(
        self, queries: Tensor, count: int, allowed: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores = queries @ self.vectors.T
        scores[:, 0] = float("-inf")
        if allowed is not None:
            scores.masked_fill_(~allowed, float("-inf"))
        if known is not None:
            scores.masked_fill_(torch.arange(len(self.vectors)) >= known[:, None], float("-inf"))
        best, places = scores.topk(count, dim=1)
        return places * torch.isfinite(best), best
