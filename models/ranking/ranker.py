"""The ranker: DLRM with memory. One user side, many candidates, a head per outcome.

After Naumov et al. (2019): embeddings for fields, a bottom network for numbers, pairwise dot
products; with low-rank cross layers (Wang et al., DCN V2, 2021), target attention over the recent
interactions (Zhou et al., DIN, 2018) and tokens for session and user memory.

B requests, C candidates, L interactions, D width, T tokens, W match half-lives, H popularity
half-lives, O outcome heads.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.config import DAY_MS, Config
from models.events import POLARITY
from models.features import FeatureConfig, ItemSide, UserSide
from models.layers import ItemEncoder, SequenceEncoder, mlp, positive, session_tokens


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


class LowRankCross(nn.Module):
    """x0 * (U V x + b) + x: feature crosses at the cost of two thin matrices."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(size, rank, bias=False)
        self.up = nn.Linear(rank, size)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """`(..., size)` each."""
        return first * self.up(self.down(x)) + x


class MemoryRanker(nn.Module):
    """Logits of every outcome for every candidate of every request."""

    pairs: Tensor
    """`(2, T (T - 1) / 2)` the pairs of tokens whose dot products are taken."""

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
        width, drop = config.width, config.dropout
        self.item = ItemEncoder(items, features, width=width, dropout=drop)
        self.sequence = SequenceEncoder(width=width, heads=config.heads, dropout=drop)
        self.ask = nn.Linear(width, width)
        self.long = mlp([num_long, 2 * width, width], drop)
        self.context = nn.Embedding(features.context_buckets, width)
        nn.init.normal_(self.context.weight, std=0.1)
        num_match = 3 * len(features.match_half_lives) + 4
        num_numbers = items.numbers.shape[1] + 2 + len(features.popularity_half_lives) + num_match
        self.bottom = mlp([num_numbers, 2 * width, width])
        num_tokens = 8
        pairs = num_tokens * (num_tokens - 1) // 2
        crossed = num_numbers + num_tokens * width
        upper = torch.triu_indices(num_tokens, num_tokens, 1)
        self.register_buffer("pairs", upper, persistent=False)
        self.cross = nn.ModuleList(
            LowRankCross(crossed, config.cross_rank) for _ in range(config.num_cross)
        )
        self.top = mlp([pairs + crossed, config.hidden, config.hidden, num_heads], drop)

    def forward(
        self, user: UserSide, candidates: Tensor, popularity: Tensor, affinity: Tensor
    ) -> Tensor:
        """Logits `(B, C, O)` of candidates.

        Args:
            candidates: `(B, C)` places.
            popularity: `(B, C, H)` at each request's moment.
            affinity: `(B, C)` the retriever's score.
        """
        once = self.user_tokens(user)
        distinct, where = torch.unique(
            torch.cat([user.item.flatten(), candidates.flatten()]), return_inverse=True
        )
        encoded = self.item(distinct)
        seen = encoded[where[: user.item.numel()]].view(*user.item.shape, -1)
        item = encoded[where[user.item.numel() :]].view(*candidates.shape, -1)
        numbers = self.numbers(user, candidates, popularity, affinity)
        read = self.attend(seen, item, user)
        spread = [token[:, None].expand_as(item) for token in (*once, *session_tokens(seen, user))]
        tokens = torch.stack([item, self.bottom(numbers), read, *spread], 2)
        first, second = self.pairs.unbind()
        dots = (tokens @ tokens.transpose(2, 3))[:, :, first, second]
        flat = torch.cat([numbers, tokens.flatten(2)], 2)
        crossed = flat
        for layer in self.cross:
            crossed = layer(flat, crossed)
        return self.top(torch.cat([dots, crossed], 2))

    def user_tokens(self, user: UserSide) -> list[Tensor]:
        """`(B, D)` each: the user level, and the request's context."""
        return [self.long(user.long), self.context(user.context).sum(1)]

    def attend(self, seen: Tensor, item: Tensor, user: UserSide) -> Tensor:
        """Target attention: what each candidate `(B, C, D)` recalls of the interactions."""
        keys = self.sequence(seen, user)
        scores = self.ask(item) @ keys.transpose(1, 2) / math.sqrt(item.shape[-1])
        weights = torch.softmax(scores.masked_fill(~user.recent[:, None], -1e4), -1)
        return (weights * user.recent[:, None]) @ keys

    def numbers(
        self, user: UserSide, candidates: Tensor, popularity: Tensor, affinity: Tensor
    ) -> Tensor:
        """`(B, C, M)` numbers of item and user: age, popularity, retriever's score, their past."""
        items = self.item.items
        days = user.now_days[:, None] - items.first_seen_days[candidates]
        age = torch.log1p(days.clamp(min=0)).to(popularity.dtype)[..., None] / 4
        match = self.match(user, candidates)
        score = affinity[..., None] / 4
        return torch.cat([items.numbers[candidates], age, popularity, score, match], 2)

    def match(self, user: UserSide, candidates: Tensor) -> Tensor:
        """`(B, C, 3W + 4)`: decayed counts of the candidate and its category, and when last.

        Exact reads of the ring: what was done with this very item (for it, against it) and with
        its first category.
        """
        liked = user.recent & positive(user)
        against = user.recent & (torch.from_numpy(POLARITY < 0).to(user.action.device)[user.action])
        halves = [half_life / DAY_MS for half_life in self.features.match_half_lives]
        fade = torch.stack([torch.exp2(-user.age_days / half) for half in halves], 2)
        same = (candidates[:, :, None] == user.item[:, None]) & (candidates > 0)[:, :, None]
        counts = [
            same.to(fade.dtype) @ (fade * liked[..., None]),
            same.to(fade.dtype) @ (fade * against[..., None]),
        ]
        kin = self._kin(user, candidates)
        counts.append(kin.to(fade.dtype) @ (fade * liked[..., None]))
        last = self._last(user, same, user.recent & positive(user))
        before = user.sessions & positive(user)
        latest = [
            (same & (before & (user.session == rank))[:, None]).any(2).to(fade.dtype)
            for rank in (0, 1)
        ]
        ever = (same & liked[:, None]).any(2).to(fade.dtype)
        return torch.cat(
            [torch.log1p(torch.cat(counts, 2)), torch.stack([last, ever, *latest], 2)], 2
        )

    def _kin(self, user: UserSide, candidates: Tensor) -> Tensor:
        """`(B, C, L)` whether an interaction was with an item of the candidate's category."""
        categories = self.item.items.categories
        if not categories.shape[1]:
            return torch.zeros(*candidates.shape, user.item.shape[1], dtype=torch.bool)
        mine, theirs = categories[candidates, 0], categories[user.item, 0]
        return (mine[:, :, None] == theirs[:, None]) & (mine > 0)[:, :, None]

    @staticmethod
    def _last(user: UserSide, same: Tensor, liked: Tensor) -> Tensor:
        """`(B, C)` how recent the last positive interaction with the item is: 1 now, 0 never."""
        fade = 1 / (1 + torch.log1p(user.age_days)) * liked
        return (same * fade[:, None]).amax(2)


def ranking_loss(
    logits: Tensor, labels: Tensor, real: Tensor, *, kept: Tensor, listwise_weight: float
) -> Tensor:
    """Log loss of each candidate and head, plus a softmax over each request's candidates.

    Args:
        logits: `(B, C, O)`.
        labels: `(B, C, O)` 0 or 1.
        real: `(B, C)` bool, false where a list of candidates is padded.
        kept: `(B,)` share of the negatives that were kept for training. Fewer negatives raise the
            odds by 1 / kept; the log loss takes that back, so that logits are those of the whole.
    """
    seen = logits - torch.log(kept)[:, None, None]
    each = functional.binary_cross_entropy_with_logits(seen, labels, reduction="none")
    weight = real[..., None].expand_as(each)
    loss = (each * weight).sum() / weight.sum().clamp(min=1)
    if not listwise_weight:
        return loss
    scores = torch.log_softmax(logits.masked_fill(~weight, -1e4), 1)
    hits = labels * weight
    total = hits.sum(1)
    lists = -(scores * hits).sum(1) / total.clamp(min=1)
    return loss + listwise_weight * lists[total > 0].mean() if (total > 0).any() else loss
