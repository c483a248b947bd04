"""The ranker: DLRM with memory. One user side, many candidates, a head per outcome.

After Naumov et al. (2019): embeddings for fields, a bottom network for numbers, pairwise dot
products; with low-rank cross layers (Wang et al., DCN V2, 2021), target attention over the recent
interactions (Zhou et al., DIN, 2018) and tokens for session and user memory. All that is read of
memory passes a gate (`models.ranking.gates`). What depends on the user alone is computed once for
a request: the encoded interactions, the tokens of session and user, and the products among those.

B requests, C candidates, L newest interactions, D width, S tokens of the user side, M numbers,
W match half-lives, H popularity half-lives, O outcome heads.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Config, format_duration
from models.features import FeatureConfig, ItemSide, UserSide
from models.layers import ItemEncoder, SequenceEncoder, mlp, positive
from models.ranking.crosses import LowRankCross, pair_products
from models.ranking.gates import Gates
from models.ranking.match import match, match_names
from models.ranking.positions import PositionTerm

SESSIONS = ("session_now", "session_last", "session_before")
"""Gates of the sessions: the one going on, the one before, and three before those."""
NUM_OWN, NUM_SHARED = 3, 2 + len(SESSIONS)
"""Tokens of a candidate (item, numbers, what it recalls), and of its user."""
MAX_TABLE_BYTES = 256 << 20
"""Vectors of a larger catalogue are not kept between requests."""


class RankerConfig(Config):
    """Size and objective of the ranker."""

    width: int = Field(32, gt=0)
    heads: int = Field(2, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    num_cross: int = Field(2, ge=0)
    cross_rank: int = Field(32, gt=0)
    hidden: int = Field(96, gt=0)
    listwise_weight: float = Field(0.2, ge=0)
    """Share of a softmax over the candidates of a request, beside the log loss of each."""
    gate_weight: float = Field(1e-3, ge=0)
    """What an open gate costs: the more, the more levels and timescales of memory are shut."""
    propensity_clip: float | None = Field(None, ge=1)
    """Where the log has propensities, the log loss counts what was shown by 1 / propensity, at most
    this much. None: all the same."""


class MemoryRanker(nn.Module):
    """Logits of every outcome for every candidate of every request."""

    shared_gates: Tensor
    """`(S,)` the gate of each token of the user side."""
    number_gates: Tensor
    """The gate of each number that is read of memory."""

    follow: Tensor
    """`()` weight that a slate's order gives to `models.retrieval.successors` beside the target's
    logit; `models.model.Recommender` adds it."""

    def __init__(
        self,
        items: ItemSide,
        features: FeatureConfig,
        config: RankerConfig,
        *,
        num_long: int,
        num_heads: int,
    ) -> None:
        super().__init__()
        self.features, self.config = features, config
        self.register_buffer("follow", torch.zeros(()))
        width, drop = config.width, config.dropout
        self.item = ItemEncoder(items, features, width=width, dropout=drop)
        self.sequence = SequenceEncoder(width=width, heads=config.heads, dropout=drop)
        self.ask = nn.Linear(width, width)
        self.long = mlp([num_long, 2 * width, width], drop)
        self.context = nn.Embedding(features.context_buckets, width)
        nn.init.normal_(self.context.weight, std=0.1)
        popular = [f"popularity_{format_duration(h)}" for h in features.popularity_half_lives]
        matched = match_names(features.match_half_lives)
        self.gate = Gates(dict.fromkeys(["interaction", *SESSIONS, "user", *matched, *popular]))
        shared = ["user", "context", *SESSIONS]
        for name, gated in (("shared", shared), ("number", [*popular, "affinity", *matched])):
            self.register_buffer(name + "_gates", self.gate.places(gated), persistent=False)
        plain = items.numbers.shape[1] + 1
        num_numbers = plain + len(self.number_gates)
        self.bottom = mlp([num_numbers, 2 * width, width])
        num_tokens = NUM_OWN + NUM_SHARED
        crossed = num_numbers + num_tokens * width
        self.cross = nn.ModuleList(
            LowRankCross(crossed, config.cross_rank) for _ in range(config.num_cross)
        )
        pairs = num_tokens * (num_tokens - 1) // 2
        self.top = mlp([pairs + crossed, config.hidden, config.hidden, num_heads], drop)
        self.position = PositionTerm(num_heads)
        self._table: tuple[object, Tensor] | None = None

    def forward(
        self,
        user: UserSide,
        candidates: Tensor,
        popularity: Tensor,
        affinity: Tensor,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits `(B, C, O)` of candidates.

        Args:
            candidates: `(B, C)` places.
            popularity: `(B, C, H)` at each request's moment.
            affinity: `(B, C)` the retriever's score.
            positions: `(B, C)` where each was shown, below 0 where it was not. They count in
                training alone: what is served is as if nothing had been shown yet.
        """
        gates = self.gate()
        seen, item = self._encoded(user, candidates)
        shared = self.user_tokens(user, seen) * gates[self.shared_gates, None]
        numbers = self.numbers(user, candidates, popularity, affinity, gates[self.number_gates])
        read = self.attend(seen, item, user) * gates[0]
        own = torch.stack([item, self.bottom(numbers), read], 2)
        spread = shared.flatten(1)[:, None].expand(-1, candidates.shape[1], -1)
        flat = torch.cat([numbers, own.flatten(2), spread], 2)
        crossed = flat
        for layer in self.cross:
            crossed = layer(flat, crossed)
        logits: Tensor = self.top(torch.cat([pair_products(own, shared), crossed], 2))
        if positions is None or not self.training:
            return logits
        return logits + self.position(positions)

    def gates(self) -> dict[str, float]:
        """How far each gate is open, from 0 to 1."""
        return dict(zip(self.gate.names, self.gate.values().tolist(), strict=True))

    def user_tokens(self, user: UserSide, seen: Tensor) -> Tensor:
        """`(B, S, D)`: the user level, the request's context, and the sessions."""
        known = torch.stack([self.long(user.long), self.context(user.context).sum(1)], 1)
        spoken, rank = user.sessions & positive(user), user.session
        parts = torch.stack([rank == 0, rank == 1, (rank > 1) & (rank <= 4)], 1)
        weights = (parts & spoken[:, None]).to(seen.dtype)
        means = weights / weights.sum(2, keepdim=True).clamp(min=1) @ seen
        return torch.cat([known, means], 1)

    def attend(self, seen: Tensor, item: Tensor, user: UserSide) -> Tensor:
        """Target attention: what each candidate `(B, C, D)` recalls of the interactions.

        Zero without any: keys are zero where nothing may be read.
        """
        keys = self.sequence(seen, user)
        hidden = torch.zeros_like(user.age_days).masked_fill(~user.recent, -1e4)[:, None]
        scale = item.shape[-1] ** -0.5
        scores = torch.baddbmm(hidden, self.ask(item), keys.transpose(1, 2), alpha=scale)
        return torch.softmax(scores, -1) @ keys

    def numbers(
        self,
        user: UserSide,
        candidates: Tensor,
        popularity: Tensor,
        affinity: Tensor,
        gates: Tensor,
    ) -> Tensor:
        """`(B, C, M)`: of the item alone, and, gated, what popularity and memory say of it."""
        items = self.item.items
        days = user.now_days[:, None] - items.first_seen_days[candidates]
        age = torch.log1p(days.clamp(min=0)).to(popularity.dtype)[..., None] / 4
        found = match(
            user,
            candidates,
            categories=items.categories,
            half_lives=self.features.match_half_lives,
        )
        remembered = torch.cat([popularity, affinity[..., None] / 4, found], 2)
        return torch.cat([items.numbers[candidates], age, remembered * gates], 2)

    def _encoded(self, user: UserSide, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, L, D)` and `(B, C, D)`: item vectors of interactions and candidates."""
        if not self.training and (table := self._vectors()) is not None:
            return table[user.item], table[candidates]
        both = self.item.spread(torch.cat([user.item.flatten(), candidates.flatten()]))
        num = user.item.numel()
        return both[:num].view(*user.item.shape, -1), both[num:].view(*candidates.shape, -1)

    def _vectors(self) -> Tensor | None:
        """`(I, D)` the vectors of all items, made once for the weights as they are.

        None where gradients may be asked for, or where the table would be too large.
        """
        weights = list(self.item.parameters())
        num = len(self.item.items.categories)
        if torch.is_grad_enabled() or 4 * num * self.config.width > MAX_TABLE_BYTES:
            return None
        # A step or a load writes in place, which torch counts; a move changes the address.
        made_of = [(weight.data_ptr(), weight._version) for weight in weights]
        if self._table is None or self._table[0] != made_of:
            places = torch.arange(num, device=weights[0].device)
            self._table = made_of, self.item(places)
        return self._table[1]
