"""The retriever: a user tower over memory and query, an item tower, and what they cannot hold.

Trained by sampled softmax with log-Q correction (Yi et al., RecSys 2019). Negatives are drawn for a
whole batch under a seed (`models.training.NegativeSampler`), and corrected by what was expected of
the draw; an item that appears at or after the moment of a request is no negative of that request,
and neither is what the request itself led to. A window of a user's history is encoded once for all
requests in it. R requests, P positives, S negatives, I places, D width, A heads, H popularity
half-lives, G steps of item memory; N, M, L as in `models.retrieval.memories`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Config
from models.features import NUM_ACTIONS, FeatureConfig, ItemSide, UserSide
from models.layers import (
    AGE_BUCKETS,
    InteractionToken,
    ItemEncoder,
    age_buckets,
    mlp,
    speaks,
)
from models.retrieval.memories import Memories, of_users
from models.retrieval.sequence import CausalEncoder
from models.retrieval.successors import SuccessorConfig
from models.steps import Sharing, alone


class RetrieverConfig(Config):
    """Size and objective of the two towers."""

    width: int = Field(64, gt=0)
    heads: int = Field(4, gt=0)
    """Weighted means of the interactions, each with weights of its own."""
    blocks: int = Field(1, ge=0)
    """Of the sequence encoder; without one only the last interaction's own token is read there."""
    block_heads: int = Field(2, gt=0)
    fade: bool = True
    """Attention fades with time and place, at rates that are learned. Without it interactions have
    learned positions, as in SASRec (Kang and McAuley, 2018)."""
    moment: bool = True
    """Whether a request adds what it sees from its own moment to the encoder's state: interactions
    weighed by their age, sessions, the user level, context, a pull to items of the past, and
    what is in season. Without it and `fade` the retriever is SASRec."""
    dropout: float = Field(0.2, ge=0, lt=1)
    interests: int = Field(1, gt=0)
    """Vectors of a request; an item's score is that of the one nearest to it (ComiRec, 2020)."""
    num_negatives: int | None = Field(1024, gt=0)
    """Drawn for a step; None: every item, and nothing is sampled."""
    negative_power: float = Field(0.75, ge=0)
    """Negatives are drawn by popularity to this power; 0: any item as likely as another."""
    query_weight: float = Field(0.2, ge=0)
    """Share of the loss for finding an item by words of its own text."""
    successors: SuccessorConfig = SuccessorConfig()


@dataclass(frozen=True)
class RetrieverBatch:
    """What one training step needs."""

    memories: Memories
    cells: Tensor
    """`(R,)` where each request lies among the `N * M` of the memories."""
    now_days: Tensor
    """`(R,)` days since 1970, double."""
    positives: Tensor
    """`(P,)` places with an outcome."""
    request: Tensor
    """`(P,)` the request that each belongs to."""
    negatives: Tensor
    """`(S,)` distinct places, shared by the batch."""
    log_q: Tensor
    """`(P + S,)` log of the chance of each positive, then negative, to be drawn."""
    closed: Tensor
    """`(2, K)` request and number of a negative that is none of its own: what it led to, and what
    appears at its moment or later."""
    slots: Tensor
    """`(N, L)` the number of each interaction's item among the negatives, S where it is none."""
    step: Tensor
    """`(R,)` the step of item memory that each request lies in."""
    popularity: Tensor
    """`(G, S, H)` of the negatives at each step."""
    popularity_hit: Tensor
    """`(P, H)` of the positives at their request's moment."""
    asked: Tensor
    """`(Q,)` the positives that a query is made up for, by number."""
    keep_words: Tensor
    """`(Q, G)` bool: the grams of its item's text that each query holds."""

    def to(self, device: torch.device) -> RetrieverBatch:
        """All tensors on a device."""
        return RetrieverBatch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class UserQuery:
    """What the user side asks of the items. An item's score is the sum of three products."""

    vector: Tensor
    """`(B, V, D)` met by item vectors; the best of the V interests counts."""
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

    def meeting(self, vectors: Tensor) -> Tensor:
        """`(B, N)` scores of item vectors `(N, D)`."""
        return met(self.vector, vectors)

    def to(self, device: torch.device | str) -> UserQuery:
        """All tensors on a device."""
        return UserQuery(**{name: value.to(device) for name, value in vars(self).items()})


class TwoTower(nn.Module):
    """User memory to a query, item to a vector.

    The user's vector is the state of the sequence encoder at the last interaction seen, and what
    the moment of the request adds: interactions weighed by their age and session, the sessions, the
    user level and the context. Beside the inner product of the towers a score has the item's
    popularity, at a worth that depends on the user, and a pull to items of the user's own past: few
    dimensions cannot hold a hundred single items, and a dot product cannot know what is in season.
    """

    follow: Tensor
    """`()` the weight of `models.retrieval.successors` beside these scores."""

    def __init__(
        self, items: ItemSide, features: FeatureConfig, config: RetrieverConfig, *, num_long: int
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("follow", torch.zeros(()))
        width, drop = config.width, config.dropout
        self.item = ItemEncoder(items, features, width=width, dropout=drop)
        self.action = nn.Embedding(NUM_ACTIONS, width)
        self.gap = nn.Embedding(AGE_BUCKETS, width)
        self.sequence = CausalEncoder(
            width=width,
            heads=config.block_heads,
            blocks=config.blocks,
            dropout=drop,
            num_positions=None if config.fade else features.history,
        )
        self.since = nn.Embedding(AGE_BUCKETS, width)
        for table in (self.action, self.gap, self.since):
            nn.init.normal_(table.weight, std=0.02)
        self.token = InteractionToken(width)
        self.recall = nn.Linear(width, config.heads, bias=False)
        self.pull = mlp([width, width, 1])
        self.long = mlp([num_long, 2 * width, width], drop)
        self.context = nn.Embedding(features.context_buckets, width)
        self.user = mlp([width * (config.heads + 7), 2 * width, width * config.interests], drop)
        self.trend = nn.Linear(width, len(features.popularity_half_lives))
        self.query = mlp([width, 2 * width, width])
        self.out = mlp([width, 2 * width, width])
        # Both begin as nothing: the net begins as a plain sequence model and learns what to add.
        for parameter in (*self.user[-1].parameters(), *self.out[-1].parameters()):
            nn.init.zeros_(parameter)
        if config.interests > 1:  # else all would be one for ever
            nn.init.normal_(next(self.user[-1].parameters()), std=0.02)

    def user_query(self, user: UserSide) -> UserQuery:
        """From memory and context of B live requests."""
        vector, pull = self.read(of_users(user))
        return UserQuery(vector[:, 0], self._trends(vector[:, 0]), user.item, pull[:, 0])

    def _trends(self, vector: Tensor) -> Tensor:
        """`(R, H)` what popularity is worth, from vectors `(R, V, D)`."""
        return self.trend(vector.mean(1)) * self.config.moment

    def read(self, memories: Memories) -> tuple[Tensor, Tensor]:
        """Vectors `(N, M, V, D)` and pulls `(N, M, L)` of all requests."""
        items = self.item.spread(memories.item)
        seen, age = memories.visible(), memories.age_days()
        recent, session, _ = (memories.levels[..., level, None] for level in range(3))
        state = self._last(items, memories) * (memories.last[..., None] >= 0) * recent
        if not self.config.moment:
            return state[:, :, None], torch.zeros_like(age)
        buckets, rank = age_buckets(age), memories.ranks()
        parts = [
            self._recalled(items, memories.action, buckets, rank, seen & recent),
            *_sessions(items, rank, seen & session & speaks(memories.action)[:, None]),
            self.long(memories.long),
            self.context(memories.context).sum(2),
            state,
            self._since(memories, buckets) * recent,
        ]
        added = self.user(torch.cat(parts, 2)).reshape(*state.shape[:2], -1, state.shape[2])
        return state[:, :, None] + added, self._pulls(memories.action, buckets, rank) * (
            seen & recent
        )

    def _recalled(
        self, items: Tensor, action: Tensor, buckets: Tensor, rank: Tensor, seen: Tensor
    ) -> Tensor:
        """`(N, M, A * D)`: each head recalls interactions with weights of its own.

        A weight is linear in item, action, age and session, so what depends on the request is
        looked up, not multiplied out.
        """
        weight, token = self.recall.weight.T, self.token
        scores = ((items + token.action(action)) @ weight)[:, None]
        scores = scores + (token.age.weight @ weight)[buckets]
        scores = scores + (token.session.weight @ weight)[rank]
        weights = torch.softmax(scores.masked_fill(~seen[..., None], -1e4), 2) * seen[..., None]
        found = weights.transpose(2, 3).flatten(1, 2) @ items
        return found.reshape(*weights.shape[:2], -1)

    def _pulls(self, action: Tensor, buckets: Tensor, rank: Tensor) -> Tensor:
        """`(N, M, L)`: made once for every age, action and session that there is."""
        known, code = torch.unique(action, return_inverse=True)
        age, session = self.token.age.weight, self.token.session.weight
        kinds = age[:, None, None] + session[:, None] + self.token.action(known)
        table = self.pull(kinds)[..., 0]
        return table[buckets, rank, code[:, None].expand_as(rank)]

    def _last(self, items: Tensor, memories: Memories) -> Tensor:
        """`(N, M, D)` the encoder's state at the last interaction seen; anything where none is."""
        tokens = items + self.action(memories.action)
        if self.config.fade:
            tokens = tokens + self.gap(age_buckets(memories.gap_days()))
        states = self.sequence(tokens, memories.at_days, memories.owner)
        column = memories.last.clamp(min=0)[..., None]
        return states.gather(1, column.expand(-1, -1, states.shape[-1]))

    def _since(self, memories: Memories, buckets: Tensor) -> Tensor:
        """`(N, M, D)` how long ago the last interaction was; 0 where there is none."""
        last = buckets.gather(2, memories.last.clamp(min=0)[..., None])[..., 0]
        return self.since(last) * (memories.last[..., None] >= 0)

    def query_vectors(self, text: Tensor) -> Tensor:
        """`(B, D)` from hashed grams `(B, G)` of query texts."""
        return self.query(self.item.text_vector(text))

    def item_vectors(self, places: Tensor) -> Tensor:
        """`(N, D)`."""
        summed = self.item.summed(places)
        return summed + self.out(self.item.norm(summed))

    def forward(self, batch: RetrieverBatch, share: Sharing = alone) -> Tensor:
        """The training loss: sampled softmax over outcomes, plus finding items by their words."""
        sizes = [float(len(batch.positives)), float(len(batch.asked))]
        over = share(torch.tensor(sizes, device=batch.positives.device)).clamp(min=1e-9)
        hits, negatives = self.item_vectors_of(batch.positives), self.item_vectors(batch.negatives)
        loss = self._memory_loss(batch, hits, negatives) / over[0]
        if self.config.query_weight:
            found = self._query_loss(batch, hits, negatives) / over[1]
            loss = loss + self.config.query_weight * found
        return loss

    def item_vectors_of(self, places: Tensor) -> Tensor:
        """`(N, D)`; each distinct place is encoded once."""
        distinct, where = torch.unique(places, return_inverse=True)
        return self.item_vectors(distinct)[where]

    def _memory_loss(self, batch: RetrieverBatch, hits: Tensor, negatives: Tensor) -> Tensor:
        """Each outcome against the negatives that its request could know and did not choose.

        The sum over outcomes; of none it is 0 with a gradient of 0: every worker takes the step.
        """
        vectors, pulls = (values.flatten(0, 1)[batch.cells] for values in self.read(batch.memories))
        rows = batch.cells // batch.memories.now_days.shape[1]
        trend, request, num = self._trends(vectors), batch.request, len(batch.positives)
        missed = met(vectors, negatives) - batch.log_q[num:]
        if self.config.moment:
            missed = missed + _by_step(trend, batch.step, batch.popularity)
            missed = missed + self._returning(pulls, batch.slots[rows], len(batch.negatives))
        missed[batch.closed[0], batch.closed[1]] = float("-inf")
        hit = (vectors[request] * hits[:, None]).sum(2).amax(1) - batch.log_q[:num]
        if self.config.moment:
            hit = hit + (trend[request] * batch.popularity_hit).sum(1)
            again = batch.memories.item[rows][request] == batch.positives[:, None]
            hit = hit + torch.asinh((pulls[request] * again).sum(1))
        return (torch.logaddexp(hit, missed.logsumexp(1)[request]) - hit).sum()

    @staticmethod
    def _returning(pulls: Tensor, slots: Tensor, num: int) -> Tensor:
        """`(R, S)` pull of each request to the negatives; `UserQuery.returning` at some places."""
        total = torch.zeros(len(pulls), num + 1, device=pulls.device)
        return torch.asinh(total.scatter_add(1, slots, pulls.float())[:, :num])

    def _query_loss(self, batch: RetrieverBatch, hits: Tensor, negatives: Tensor) -> Tensor:
        """Some outcomes by some of their own words, against the negatives; the sum over queries.

        Each is held against what its request could have found.
        """
        asked = batch.asked
        places = batch.positives[asked]
        queries = self.query_vectors(self.item.items.text[places] * batch.keep_words)
        hit = (queries * hits[asked]).sum(1)
        own = batch.negatives == places[:, None]
        future = self._future(batch.negatives, batch.now_days[batch.request[asked]])
        missed = (queries @ negatives.T).masked_fill(own | future, float("-inf"))
        return (torch.logaddexp(hit, missed.logsumexp(1)) - hit).sum()

    def _future(self, places: Tensor, now_days: Tensor) -> Tensor:
        """`(B, N)` which of `(N,)` places had not appeared before each moment `(B,)`."""
        return self.item.items.first_seen_days[places] >= now_days[:, None]


def met(vector: Tensor, items: Tensor) -> Tensor:
    """`(B, N)` the best product of interests `(B, V, D)` with each of item vectors `(N, D)`."""
    if vector.shape[1] == 1:
        return vector[:, 0] @ items.T
    return (vector @ items.T).amax(1)


def _sessions(items: Tensor, rank: Tensor, spoken: Tensor) -> list[Tensor]:
    """`(N, M, D)` each: the mean item of the session going on, of the last one, of three before."""
    chosen = (rank == 0, rank == 1, (rank > 1) & (rank <= 4))
    masks = [(spoken & part).float() for part in chosen]
    return [(mask @ items) / mask.sum(2, keepdim=True).clamp(min=1) for mask in masks]


def _by_step(trend: Tensor, step: Tensor, popularity: Tensor) -> Tensor:
    """`(R, S)` of trends `(R, H)` with the popularity `(G, S, H)` at the step of each."""
    order = step.argsort(stable=True)
    sizes = torch.bincount(step, minlength=len(popularity)).tolist()
    parts = torch.split(trend[order], sizes)
    found = [part @ table.T for part, table in zip(parts, popularity, strict=True)]
    return torch.cat(found)[order.argsort()]


MAX_QUERIES = 128
"""Queries made up in one step."""
