"""Gates: how much each level and timescale of memory counts, down to nothing at all.

A gate is a number from 0 to 1, one for all requests, that multiplies what it lets through. It is
learned by projected gradient descent under an L1 penalty (ISTA with bounds, Beck & Teboulle 2009):
what does not pay for its penalty ends at exactly 0, and is then off in serving. Nothing is drawn at
random, as in gates of the hard-concrete kind (Louizos et al. 2018): what was learned is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_PACE = 5.0
"""How much faster a gate moves than a weight: from open to shut in some hundred steps of Adam."""


class Gates(nn.Module):
    """A gate for each name, open at first."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.raw = nn.Parameter(torch.full((len(self.names),), 1 / _PACE))

    def places(self, names: Iterable[str]) -> Tensor:
        """`(N,)` where in `forward` the gate of each name is; that of an unknown one is open."""
        where = {name: place for place, name in enumerate(self.names)}
        return torch.tensor([where.get(name, len(where)) for name in names])

    def forward(self) -> Tensor:
        """`(G + 1,)` in the order of names, and an open one."""
        return torch.cat([self.values(), self.raw.new_ones(1)])

    def values(self) -> Tensor:
        """`(G,)` in the order of names."""
        found: Tensor = _Projected.apply(_PACE * self.raw)  # type: ignore[no-untyped-call]
        return found


class _Projected(torch.autograd.Function):
    """A clamp to [0, 1] whose gradient ends at a border only where it leads further out.

    So a gate that is shut opens again when that would lower the loss; a clamp alone never would.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw)
        return raw.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (raw,) = ctx.saved_tensors
        (gradient,) = gradients
        outwards = ((raw <= 0) & (gradient > 0)) | ((raw >= 1) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0)
