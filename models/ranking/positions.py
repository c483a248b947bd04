"""Where a candidate was shown, as an additive logit: known in training, absent in serving.

What stands first is chosen more often, whatever it is. Taken apart in training (PAL, Guo et al.,
RecSys 2019; the shallow tower of Zhao et al., RecSys 2019), the rest of the network learns what a
candidate is worth wherever it stands. B requests, C candidates, O outcome heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BUCKETS = 64
"""Quarters of an octave: the first places each have their own, and the last begins at 2^16."""
_PACE = 5.0
"""How much faster the term moves than a weight, so that it is there before the rest of the network
has learned to stand in for it."""


class PositionTerm(nn.Module):
    """What a position adds to the logit of each outcome."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(_BUCKETS, num_heads)
        nn.init.zeros_(self.table.weight)

    def forward(self, positions: Tensor) -> Tensor:
        """`(B, C, O)` of positions `(B, C)`, counted from 0 or 1; nothing where one is below 0."""
        octaves = torch.log2(1 + positions.clamp(min=0).float())
        bucket = (4 * octaves).round().long().clamp(max=_BUCKETS - 1)
        found: Tensor = _PACE * self.table(bucket) * (positions >= 0)[..., None]
        return found
