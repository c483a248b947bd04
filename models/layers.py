"""The layers that retriever and ranker share: how items and sequences of interactions are read.

B requests, L interactions, D width, I places of the catalogue, G text grams.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.events import POLARITY
from models.features import MAX_SESSION_RANK, NUM_ACTIONS, FeatureConfig, ItemSide, UserSide
from models.tables import BagTable, IdTable, Table

AGE_BUCKETS = 32
BEGINNING = 0.02
"""Standard deviation of ids before training."""


class ItemEncoder(nn.Module):
    """Item places to vectors: id, category fields, numbers and hashed text, added and normed.

    Ids begin at zero, so that an item never trained on is what its text and fields say. Tables
    have sparse gradients: an optimizer step touches the rows that occurred.
    """

    def __init__(
        self, items: ItemSide, config: FeatureConfig, *, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = items
        num_items = len(items.categories)
        self.id = IdTable(num_items, width, least=config.id_min_count, overflow=config.id_overflow)
        self.text = BagTable(config.text_buckets, width)
        nn.init.normal_(self.text.weight, std=0.1)
        sizes = [int(column.max()) + 1 for column in items.categories.T]
        self.fields = nn.ModuleList(_field(size, width) for size in sizes)
        self.numbers = nn.Linear(items.numbers.shape[1], width) if items.numbers.numel() else None
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def begin(self, places: Tensor) -> None:
        """Draws the ids of places that training will meet; others keep saying nothing."""
        rows = self.id.rows_of(places)
        self.id.weight[rows] = (
            torch.randn(len(rows), self.id.embedding_dim).to(self.id.weight) * BEGINNING
        )

    def forward(self, places: Tensor) -> Tensor:
        """`(N,)` places to `(N, D)`."""
        return self.norm(self.summed(places))

    def summed(self, places: Tensor) -> Tensor:
        """`(N, D)` before the norm: its length is free to grow."""
        vector = self.dropout(self.id(places)) + self.text_vector(self.items.text[places])
        for number, field in enumerate(self.fields):
            vector = vector + field(self.items.categories[places, number])
        if self.numbers is not None:
            vector = vector + self.numbers(self.items.numbers[places])
        return vector

    def text_vector(self, text: Tensor) -> Tensor:
        """`(N, G)` hashed grams to `(N, D)`."""
        return self.text(text)

    def spread(self, places: Tensor) -> Tensor:
        """`(...)` places to `(..., D)`: each distinct place is encoded once."""
        distinct, where = torch.unique(places, return_inverse=True)
        return self(distinct)[where]


def _field(size: int, width: int) -> Table:
    table = Table(size, width)
    nn.init.normal_(table.weight, std=0.1)
    return table


def age_buckets(age_days: Tensor) -> Tensor:
    """Logarithmic buckets from a minute to some three years, `0..AGE_BUCKETS - 1`."""
    minutes = age_days * 1440
    return (torch.log2(1 + minutes) * 1.5).long().clamp(max=AGE_BUCKETS - 1)


class InteractionToken(nn.Module):
    """Interactions to tokens: item vector, action, age and place of its session, added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.action = nn.Embedding(NUM_ACTIONS, width)
        self.age = nn.Embedding(AGE_BUCKETS, width)
        self.session = nn.Embedding(MAX_SESSION_RANK + 1, width)
        for table in (self.action, self.age, self.session):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, items: Tensor, user: UserSide) -> Tensor:
        """`(B, L, D)` item vectors to `(B, L, D)` tokens."""
        return items + self.circumstances(user)

    def circumstances(self, user: UserSide) -> Tensor:
        """`(B, L, D)` all but the item: what was done, how long ago, in which session."""
        when = self.age(age_buckets(user.age_days)) + self.session(user.session)
        return when + self.action(user.action)


class SequenceEncoder(nn.Module):
    """Interaction tokens that have seen one another: one block of self-attention."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.token = InteractionToken(width)
        self.block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, user: UserSide) -> Tensor:
        """`(B, L, D)` item vectors to `(B, L, D)` tokens; zero where nothing may be read."""
        # A row with nothing to attend to would be nan: let it see its padding, then zero it.
        hidden = ~user.recent & user.recent.any(1, keepdim=True)
        tokens = self.block(self.token(items, user), src_key_padding_mask=hidden)
        return self.norm(tokens) * user.recent[..., None]


def positive(user: UserSide) -> Tensor:
    """`(B, L)` bool: interactions that speak for their item."""
    return speaks(user.action)


def speaks(action: Tensor) -> Tensor:
    """`(...)` bool: whether an action of code `(...)` speaks for its item."""
    return torch.from_numpy(POLARITY > 0).to(action.device)[action]


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with GELU between them, none after the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
