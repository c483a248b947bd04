"""The sequence encoder: interactions that have seen those before them, a window at one pass.

Pre-norm transformer blocks (Kang and McAuley, SASRec, 2018) whose attention fades with time and
with place, each head at rates that it learns: a power law of the time between two interactions and
an exponential of the number of interactions between them. Nothing has an absolute place, so a
window may begin anywhere.

N rows, L interactions, D width, A heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

HOURS = 24.0
"""In a day: the power law is flat for ages under an hour."""


class Fade(nn.Module):
    """What is taken off an attention score for time and for place."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        # Ranges of rates to begin with, as in ALiBi (Press et al., 2022): from 1 a step to 1/64.
        places = 2.0 ** -torch.linspace(0, 6, heads)
        self.time = nn.Parameter(torch.full((heads,), 0.1).expm1().log())
        self.place = nn.Parameter(places.expm1().log())

    def forward(self, apart_days: Tensor) -> Tensor:
        """`(N, A, L, L)` at most 0, of query by key; `apart_days` is `(N, L, L)`, not negative."""
        time, place = functional.softplus(self.time), functional.softplus(self.place)
        steps = torch.arange(apart_days.shape[-1], device=apart_days.device, dtype=torch.float)
        between = (steps[:, None] - steps).clamp(min=0)
        fade = torch.log1p(apart_days * HOURS)[:, None] * time[:, None, None]
        return -(fade + between * place[:, None, None])


class Block(nn.Module):
    """Attention to what came before, then a feed-forward layer, each added to what it read."""

    def __init__(self, *, width: int, heads: int, dropout: float, fade: bool) -> None:
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fade = Fade(heads) if fade else None
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.attend, self.join, self.up, self.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, apart_days: Tensor, hidden: Tensor) -> Tensor:
        """`(N, L, D)`; `hidden` is `(N, 1, L, L)` bool, true where a key may not be seen."""
        split = self.attend(self.before(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        bias = torch.zeros_like(hidden, dtype=x.dtype)
        if self.fade is not None:
            bias = self.fade(apart_days)
        bias = bias.masked_fill(hidden, -1e4)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.drop(self.join(read.transpose(1, 2).flatten(2)))
        found: Tensor = x + self.drop(self.down(functional.gelu(self.up(self.after(x)))))
        return found


class CausalEncoder(nn.Module):
    """A few blocks over tokens.

    Args:
        num_positions: interactions have one of so many learned positions in their window; None:
            they have none, and attention fades instead.
    """

    def __init__(
        self, *, width: int, heads: int, blocks: int, dropout: float, num_positions: int | None
    ) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        fade = num_positions is None
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, dropout=dropout, fade=fade) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.position = nn.Embedding(num_positions, width) if num_positions else None
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.1)

    def forward(self, tokens: Tensor, at_days: Tensor, owner: Tensor) -> Tensor:
        """Hidden states `(N, L, D)`; no state depends on a later token or on another window's.

        Args:
            tokens: `(N, L, D)`.
            at_days: `(N, L)`.
            owner: `(N, L)` the window of each token.
        """
        begun = (at_days - at_days.amin(1, keepdim=True)).float()  # doubles are dear
        apart = (begun[:, :, None] - begun[:, None]).clamp(min=0)
        later = torch.ones(apart.shape[1:], dtype=torch.bool, device=apart.device).triu(1)
        other = owner[:, :, None] != owner[:, None]
        if self.position is not None:
            place = (~(later | other)).sum(2) - 1
            tokens = tokens + self.position(place.clamp(max=self.position.num_embeddings - 1))
        hidden = (later | other)[:, None]
        x = self.drop(tokens)
        for block in self.blocks:
            x = block(x, apart, hidden)
        states: Tensor = self.norm(x)
        return states
