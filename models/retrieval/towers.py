"""The retriever: a user tower over memory and query, an item tower, and what they cannot hold.

Trained by sampled softmax with log-Q correction (Yi et al., RecSys 2019). Negatives are drawn for a
whole batch under a seed, by popularity^0.75 (`models.training.NegativeSampler`), and corrected by
what was expected of the draw; an item that appears at or after the moment of a request is no
negative of that request, and neither is what the request itself led to. The user side is encoded
once for all of a request's positives. B requests, P positives, S negatives, I places, D width,
L interactions, H popularity half-lives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Config
from models.features import FeatureConfig, ItemSide, UserSide
from models.layers import InteractionToken, ItemEncoder, mlp, session_tokens


class RetrieverConfig(Config):
    """Size and objective of the two towers."""

    width: int = Field(64, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.2, ge=0, lt=1)
    num_negatives: int = Field(1024, gt=0)
    query_weight: float = Field(0.2, ge=0)
    """Share of the loss for finding an item by words of its own text."""


@dataclass(frozen=True)
class RetrieverBatch:
    """What one training step needs."""

    user: UserSide
    positives: Tensor
    """`(P,)` places with an outcome."""
    request: Tensor
    """`(P,)` the request in the batch that each belongs to."""
    negatives: Tensor
    """`(S,)` places, shared by the batch."""
    log_q: Tensor
    """`(I,)` log of the expected number of each item among negatives."""
    keep_words: Tensor
    """`(P, G)` bool: the grams of each positive that a made-up query holds."""
    popularity: Tensor
    """`(B, P + S, H)` of positives and negatives at each request's moment."""

    def to(self, device: torch.device) -> RetrieverBatch:
        """All tensors on a device."""
        return RetrieverBatch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class UserQuery:
    """What the user side asks of the items. An item's score is the sum of three products."""

    vector: Tensor
    """`(B, D)` met by item vectors."""
    trend: Tensor
    """`(B, H)` met by the items' popularity at the moment."""
    item: Tensor
    """`(B, L)` places of the interactions read."""
    pull: Tensor
    """`(B, L)` how much each interaction speaks for its very item to return."""

    def returning(self, num_places: int) -> Tensor:
        """`(B, I)` pull on every item, growing like the logarithm of its sum."""
        total = torch.zeros(len(self.item), num_places, device=self.pull.device)
        return torch.asinh(total.scatter_add(1, self.item, self.pull))

    def to(self, device: torch.device | str) -> UserQuery:
        """All tensors on a device."""
        return UserQuery(**{name: value.to(device) for name, value in vars(self).items()})


class TwoTower(nn.Module):
    """User memory to a query, item to a vector.

    Beside the inner product of the towers a score has the item's popularity, at a worth that
    depends on the user, and a pull to items of the user's own past: few dimensions cannot hold a
    hundred single items, and a dot product cannot know what is in season.
    """

    def __init__(
        self, items: ItemSide, features: FeatureConfig, config: RetrieverConfig, *, num_long: int
    ) -> None:
        super().__init__()
        self.config = config
        width, drop = config.width, config.dropout
        self.item = ItemEncoder(items, features, width=width, dropout=drop)
        self.token = InteractionToken(width)
        self.recall = nn.Linear(width, config.heads)
        self.pull = mlp([width, width, 1])
        self.long = mlp([num_long, 2 * width, width], drop)
        self.context = nn.Embedding(features.context_buckets, width)
        self.user = mlp([width * (config.heads + 5), 4 * width, width], drop)
        self.trend = nn.Linear(width, len(features.popularity_half_lives))
        self.query = mlp([width, 2 * width, width])
        self.out = mlp([width, 2 * width, width])

    def user_query(self, user: UserSide) -> UserQuery:
        """From memory and context; each head recalls interactions with weights of its own."""
        items = self.item.spread(user.item)
        circumstances = self.token.circumstances(user)
        scores = self.recall(items + circumstances).masked_fill(~user.recent[..., None], -1e4)
        weights = torch.softmax(scores, 1) * user.recent[..., None]
        parts = [
            (weights.transpose(1, 2) @ items).flatten(1),
            *session_tokens(items, user),
            self.long(user.long),
            self.context(user.context).sum(1),
        ]
        vector = self.user(torch.cat(parts, 1))
        pull = self.pull(circumstances)[..., 0] * user.recent
        return UserQuery(vector, self.trend(vector), user.item, pull)

    def query_vectors(self, text: Tensor) -> Tensor:
        """`(B, D)` from hashed grams `(B, G)` of query texts."""
        return self.query(self.item.text_vector(text))

    def item_vectors(self, places: Tensor) -> Tensor:
        """`(N, D)`."""
        return self.out(self.item(places))

    def forward(self, batch: RetrieverBatch) -> Tensor:
        """The training loss: sampled softmax over outcomes, plus finding items by their words."""
        places = torch.cat([batch.positives, batch.negatives])
        vectors = self.item_vectors(places)
        loss = self._memory_loss(batch, places, vectors)
        if self.config.query_weight and len(batch.positives):
            loss = loss + self.config.query_weight * self._query_loss(batch, places, vectors)
        return loss

    def _memory_loss(self, batch: RetrieverBatch, places: Tensor, vectors: Tensor) -> Tensor:
        """Each outcome against the negatives that its request could know and did not choose."""
        user, request, num = batch.user, batch.request, len(batch.positives)
        asked = self.user_query(user)
        scores = asked.vector @ vectors.T + (batch.popularity @ asked.trend[..., None])[..., 0]
        scores = scores + asked.returning(len(batch.log_q))[:, places] - batch.log_q[places]
        hit = scores[request, torch.arange(num, device=scores.device)]
        future = self._future(batch.negatives, user.now_days)
        own = torch.zeros(len(user), len(batch.log_q), dtype=torch.bool, device=scores.device)
        own[request, batch.positives] = True
        if not num:
            return scores.sum() * 0  # nothing to learn here, but every worker takes the step
        missed = scores[:, num:].masked_fill(future | own[:, batch.negatives], float("-inf"))
        return (torch.logaddexp(hit, missed.logsumexp(1)[request]) - hit).mean()

    def _query_loss(self, batch: RetrieverBatch, places: Tensor, vectors: Tensor) -> Tensor:
        """Some outcomes by some of their own words, against each other and the negatives.

        Each is held against what its request could have found: an outcome of a later request, too,
        may be an item that was not there yet.
        """
        num = min(len(batch.positives), MAX_QUERIES)
        asked = places[:num]
        text = self.item.items.text[asked] * batch.keep_words[:num]
        chosen = torch.cat([torch.arange(num), torch.arange(len(batch.positives), len(places))]).to(
            places.device
        )
        scores = self.query_vectors(text) @ vectors[chosen].T
        hit = scores.diagonal()
        own = places[chosen] == asked[:, None]
        future = self._future(places[chosen], batch.user.now_days[batch.request[:num]])
        scores = scores.masked_fill(own | future, float("-inf"))
        return (torch.logaddexp(hit, scores.logsumexp(1)) - hit).mean()

    def _future(self, places: Tensor, now_days: Tensor) -> Tensor:
        """`(B, N)` which of `(N,)` places had not appeared before each moment `(B,)`."""
        return self.item.items.first_seen_days[places] >= now_days[:, None]


MAX_QUERIES = 128
"""Queries made up in one step."""
