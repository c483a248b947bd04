"""The retriever: a user tower over memory and query, an item tower, one inner product.

Trained by sampled softmax with log-Q correction (Yi et al., RecSys 2019). The user side is encoded
once for all of a request's positives. B requests, P positives, S negatives, I places, D width.
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

    def to(self, device: torch.device) -> RetrieverBatch:
        """All tensors on a device."""
        return RetrieverBatch(**{name: value.to(device) for name, value in vars(self).items()})


class TwoTower(nn.Module):
    """User memory to a vector, item to a vector; the score is their inner product."""

    def __init__(
        self, items: ItemSide, features: FeatureConfig, config: RetrieverConfig, *, num_long: int
    ) -> None:
        super().__init__()
        self.config = config
        width, drop = config.width, config.dropout
        self.item = ItemEncoder(items, features, width=width, dropout=drop)
        self.token = InteractionToken(width)
        self.scale = nn.Parameter(torch.ones(()))
        self.recall = nn.Linear(width, config.heads)
        self.long = mlp([num_long, 2 * width, width], drop)
        self.context = nn.Embedding(features.context_buckets, width)
        self.user = mlp([width * (config.heads + 5), 4 * width, width], drop)
        self.query = mlp([width, 2 * width, width])
        self.out = mlp([width, 2 * width, width])

    def user_vectors(self, user: UserSide) -> Tensor:
        """`(B, D)` from memory and context.

        Each head recalls interactions with weights of their own (what, which action, how long ago,
        in which session). The first recalls vectors of the item tower itself, so that what was
        liked scores high by construction, before anything is learned.
        """
        distinct, where = torch.unique(user.item, return_inverse=True)
        encoded = self.item(distinct)
        items, own = encoded[where], self.out(encoded)[where]
        scores = self.recall(self.token(items, user)).masked_fill(~user.recent[..., None], -1e4)
        weights = torch.softmax(scores, 1) * user.recent[..., None]
        recalled = weights.transpose(1, 2) @ items
        direct = (weights[..., :1].transpose(1, 2) @ own)[:, 0]
        parts = [
            recalled.flatten(1),
            *session_tokens(items, user),
            self.long(user.long),
            self.context(user.context).sum(1),
        ]
        return direct * self.scale + self.user(torch.cat(parts, 1))

    def query_vectors(self, text: Tensor) -> Tensor:
        """`(B, D)` from hashed grams `(B, G)` of query texts."""
        return self.query(self.item.text_vector(text))

    def item_vectors(self, places: Tensor) -> Tensor:
        """`(N, D)`."""
        return self.out(self.item(places))

    def forward(self, batch: RetrieverBatch) -> Tensor:
        """The training loss: sampled softmax over outcomes, plus finding items by their words."""
        items = self.item_vectors(torch.cat([batch.positives, batch.negatives]))
        hits, others = items[: len(batch.positives)], items[len(batch.positives) :]
        loss = self._memory_loss(batch, hits, others)
        if self.config.query_weight:
            loss = loss + self.config.query_weight * self._query_loss(batch, hits, others)
        return loss

    def _memory_loss(self, batch: RetrieverBatch, hits: Tensor, others: Tensor) -> Tensor:
        """Each outcome against the negatives that its request could know and did not choose."""
        user, request, log_q = batch.user, batch.request, batch.log_q
        vectors = self.user_vectors(user)
        hit = (vectors[request] * hits).sum(1) - log_q[batch.positives]
        missed = vectors @ others.T - log_q[batch.negatives]
        future = self.item.items.first_seen_days[batch.negatives] >= user.now_days[:, None]
        own = torch.zeros(len(user), len(log_q), dtype=torch.bool, device=missed.device)
        own[request, batch.positives] = True
        missed = missed.masked_fill(future | own[:, batch.negatives], float("-inf"))
        return (torch.logaddexp(hit, missed.logsumexp(1)[request]) - hit).mean()

    def _query_loss(self, batch: RetrieverBatch, hits: Tensor, others: Tensor) -> Tensor:
        """Some outcomes by some of their own words, against each other and the negatives."""
        places = batch.positives[:MAX_QUERIES]
        text = self.item.items.text[places] * batch.keep_words[: len(places)]
        targets = torch.cat([places, batch.negatives])
        scores = self.query_vectors(text) @ torch.cat([hits[: len(places)], others]).T
        hit = scores.diagonal()
        scores = scores.masked_fill(targets == places[:, None], float("-inf"))
        return (torch.logaddexp(hit, scores.logsumexp(1)) - hit).mean()


MAX_QUERIES = 128
"""Queries made up in one step."""
