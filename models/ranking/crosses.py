"""Products of pairs: tokens by dot products, features by low-rank crosses.

B requests, C candidates, N tokens of a candidate, S tokens of its user, T = N + S, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pair_products(own: Tensor, shared: Tensor) -> Tensor:
    """`(B, C, T (T - 1) / 2)` dot products of all pairs of tokens (DLRM, Naumov et al. 2019).

    Those among the tokens of the user are the same for all candidates, and are computed once.

    Args:
        own: `(B, C, N, D)`.
        shared: `(B, S, D)`.
    """
    num, size = own.shape[2], shared.shape[1]
    among = [(own[:, :, i] * own[:, :, j]).sum(2) for i in range(num) for j in range(i + 1, num)]
    with_user = own.flatten(1, 2) @ shared.transpose(1, 2)
    first, second = torch.triu_indices(size, size, 1, device=own.device).unbind()
    of_user = (shared @ shared.transpose(1, 2))[:, None, first, second]
    parts = [torch.stack(among, 2)] if among else []
    parts += [with_user.reshape(*own.shape[:2], num * size)]
    return torch.cat([*parts, of_user.expand(-1, own.shape[1], -1)], 2)


class LowRankCross(nn.Module):
    """x0 * (U V x + b) + x: feature crosses at the cost of two thin matrices (DCN V2)."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(size, rank, bias=False)
        self.up = nn.Linear(rank, size)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """`(..., size)` each."""
        return torch.addcmul(x, first, self.up(self.down(x)))
