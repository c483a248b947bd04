"""Steps of training, one batch at a time; loops, workers and checkpoints are the job's.

B requests, C candidates, S negatives, I places of the catalogue, P outcomes, O outcome heads,
H popularity half-lives. A batch is made from rows and a generator alone, and holds no gradient, so
that it can be made ahead in another thread; only the loss meets the weights that are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Config
from models.examples import Examples, Ints
from models.features import LEVELS, UserSide
from models.ranking.ranker import ranking_loss
from models.retrieval.retrieve import Retriever
from models.retrieval.towers import RetrieverBatch


class StageConfig(Config):
    """The training of one network."""

    epochs: int = Field(3, gt=0)
    batch: int = Field(128, gt=0)
    """Requests a step, over all workers."""
    learning_rate: float = Field(2e-3, gt=0)
    table_learning_rate: float = Field(2e-3, gt=0)
    """For embedding tables, whose rows see few steps."""
    weight_decay: float = Field(0.01, ge=0)
    patience: int = Field(2, gt=0)
    """Epochs without a better validation before stopping."""


class TrainConfig(Config):
    """The training of a retriever, then of a ranker over what it retrieves."""

    retriever: StageConfig = StageConfig(epochs=3, patience=1)
    ranker: StageConfig = StageConfig(epochs=2, batch=32, table_learning_rate=5e-3)
    level_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of requests that see a random set of the levels of memory, so that the ablation
    measures memory and not surprise, and search without memory still works."""
    max_outcomes: int = Field(1536, gt=0)
    """Outcomes of one retriever step; more are sampled down."""
    num_candidates: int = Field(96, gt=0)
    """Candidates of a ranker step; the rest of what was retrieved is thinned out."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers; 0 trains in this process."""
    cpus_per_worker: float = Field(1, gt=0)
    use_gpu: bool | None = None
    """None: where Ray has one."""
    max_failures: int = Field(1, ge=0)
    """Restarts from the last checkpoint before giving up."""
    seed: int = 1


def optimizers(net: nn.Module, config: StageConfig) -> list[torch.optim.Optimizer]:
    """AdamW for the dense parameters, SparseAdam for the tables: it touches rows that occurred."""
    tables = [p for name, p in net.named_parameters() if is_table(net, name)]
    dense = [p for name, p in net.named_parameters() if not is_table(net, name)]
    return [
        torch.optim.AdamW(dense, lr=config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.SparseAdam(tables, lr=config.table_learning_rate),
    ]


def is_table(net: nn.Module, parameter: str) -> bool:
    """Whether a parameter, by its full name, is a table with sparse gradients."""
    owner = net.get_submodule(parameter.rpartition(".")[0])
    return bool(getattr(owner, "sparse", False))


def step(net: nn.Module, loss: Tensor, optimizers: list[torch.optim.Optimizer]) -> float:
    """One step down; returns the loss.

    Raises:
        ValueError: when the loss is not finite, before any weight is harmed.
    """
    found = float(loss.detach())
    if not np.isfinite(found):
        raise ValueError(
            f"the loss is {found}: lower train.*.learning_rate, or look for extreme values in the "
            "item numbers"
        )
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    dense = optimizers[0].param_groups[0]["params"]
    nn.utils.clip_grad_norm_(dense, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return found


def warm(optimizers: list[torch.optim.Optimizer], config: StageConfig, done: float) -> None:
    """Sets the rates for a share `done` of all steps: a short warm-up, then linear to a tenth."""
    scale = min(1.0, done / 0.03 + 0.05) * max(0.1, 1 - done)
    for optimizer, rate in zip(
        optimizers, (config.learning_rate, config.table_learning_rate), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * scale


class NegativeSampler:
    """Draws items by popularity^0.75 (Mikolov et al., 2013) of the training outcomes.

    Every item of the catalogue has a chance, so that unseen ones learn to stay low too. The draw is
    for a batch of many moments and follows the batch's seeded generator; `TwoTower` takes `log_q`
    off the scores, and leaves out for each request what is of its future.
    """

    def __init__(self, outcomes: Ints, num_places: int, num_negatives: int) -> None:
        counts = np.bincount(outcomes, minlength=num_places).astype(float)
        weights = np.maximum(counts, 0.1) ** 0.75
        weights[0] = 0
        self._shares = weights / weights.sum()
        self._cumulative = np.cumsum(self._shares)
        self._count = num_negatives
        expected = np.maximum(self._shares * num_negatives, 1e-9)
        self.log_q = torch.from_numpy(np.log(expected)).float()
        """`(I,)` log of the expected number of each item in a draw."""

    def draw(self, generator: np.random.Generator) -> Tensor:
        """`(S,)` places, repeats possible."""
        found = np.searchsorted(self._cumulative, generator.random(self._count))
        return torch.from_numpy(np.minimum(found, len(self._shares) - 1))


def drop_levels(num: int, share: float, generator: np.random.Generator) -> Tensor:
    """`(B, 3)` bool: which levels of memory each request keeps.

    A `share` of the requests keeps a random set of levels, each set as likely, none included; the
    others keep all.
    """
    some = generator.random((num, len(LEVELS))) < 0.5
    return torch.from_numpy(some | (generator.random((num, 1)) >= share))


def retriever_batch(
    examples: Examples,
    rows: Ints,
    *,
    target: int,
    sampler: NegativeSampler,
    config: TrainConfig,
    generator: np.random.Generator,
) -> RetrieverBatch:
    """One batch for `TwoTower.forward`; its positives are the outcomes with head `target`."""
    user = examples.user_side(rows).keep(drop_levels(len(rows), config.level_dropout, generator))
    request, items, bits = examples.requests.pairs(rows)
    chosen = generator.permutation(np.flatnonzero((bits >> target) & 1))[: config.max_outcomes]
    positives, negatives = torch.from_numpy(items[chosen]), sampler.draw(generator)
    places = torch.cat([positives, negatives]).expand(len(rows), -1)
    return RetrieverBatch(
        user=user,
        positives=positives,
        request=torch.from_numpy(request[chosen]),
        negatives=negatives,
        log_q=sampler.log_q,
        # Each word of an item's text is kept with a chance of its own item: short and long queries.
        keep_words=torch.from_numpy(
            generator.random((len(positives), 1)) * 0.8 + 0.1
            > generator.random((len(positives), examples.features.text_grams))
        ),
        popularity=examples.popularity.read(user.now_days, places),
    )


@dataclass(frozen=True)
class RankerBatch:
    """What one training step of the ranker needs."""

    user: UserSide
    places: Tensor
    """`(B, C)` candidates, 0 for padding."""
    popularity: Tensor
    """`(B, C, H)` of the candidates at each request's moment."""
    affinity: Tensor
    """`(B, C)` the retriever's score."""
    labels: Tensor
    """`(B, C, O)` 0 or 1."""
    kept: Tensor
    """`(B,)` share of the candidates without an outcome that was kept."""
    positions: Tensor
    """`(B, C)` where a candidate was shown, as the log has it; -1 where it was not shown."""
    propensities: Tensor
    """`(B, C)` chance that it was shown there; nan where unknown or not shown."""

    def to(self, device: torch.device) -> RankerBatch:
        """All tensors on a device."""
        return RankerBatch(**{name: value.to(device) for name, value in vars(self).items()})


def ranker_batch(
    examples: Examples,
    rows: Ints,
    *,
    retriever: Retriever,
    num_heads: int,
    config: TrainConfig,
    generator: np.random.Generator,
) -> RankerBatch:
    """One batch for `ranker_loss`.

    The candidates of a request are the slate that was shown, where the log has it: what was shown
    and not chosen was turned down. Otherwise they are what retrieval would bring. All outcomes
    among them are kept, and of the rest as many as `config.num_candidates` has room for.
    """
    user = examples.user_side(rows).keep(drop_levels(len(rows), config.level_dropout, generator))
    slates = examples.requests.slates(rows)
    places, affinity = candidates_of(retriever, user, torch.from_numpy(slates.places))
    labels = examples.labels(rows, places, num_heads)
    chosen, kept = thin(places > 0, labels.any(2), config.num_candidates, generator)
    places = places.gather(1, chosen)
    return RankerBatch(
        user=user,
        places=places,
        popularity=examples.popularity.read(user.now_days, places),
        affinity=affinity.gather(1, chosen),
        labels=labels.gather(1, chosen[..., None].expand(-1, -1, num_heads)),
        kept=kept,
        positions=_beside(torch.from_numpy(slates.positions), chosen, -1),
        propensities=_beside(torch.from_numpy(slates.propensities), chosen, float("nan")),
    )


def candidates_of(retriever: Retriever, user: UserSide, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Places and affinity `(B, C)` of each request's candidates.

    Args:
        shown: `(B, S)` places of slates, 0 after the last; a request with none is retrieved for.
    """
    slate = (shown > 0).any(1)
    kinds = []
    for rows, given in ((~slate, False), (slate, True)):
        if rows.any():
            some = UserSide(**{name: value[rows] for name, value in vars(user).items()})
            found = retriever.given(some, shown[rows]) if given else retriever.recommend(some)
            kinds.append((rows, found))
    width = max((found.places.shape[1] for _, found in kinds), default=0)
    places = torch.zeros(len(user), width, dtype=torch.long)
    affinity = torch.zeros(len(user), width)
    for rows, found in kinds:
        places[rows, : found.places.shape[1]] = found.places
        affinity[rows, : found.places.shape[1]] = found.affinity
    return places, affinity


def _beside(shown: Tensor, chosen: Tensor, nothing: float) -> Tensor:
    """`(B, C)` of what lies beside slates `(B, S)`, at the chosen columns; `nothing` beyond."""
    missing = int(chosen.max()) + 1 - shown.shape[1] if chosen.numel() else 0
    padded = nn.functional.pad(shown, (0, max(missing, 0)), value=nothing)
    return padded.gather(1, chosen)


def ranker_loss(net: nn.Module, batch: RankerBatch, *, listwise_weight: float) -> Tensor:
    """The loss of one batch that lies on the network's device."""
    return ranking_loss(
        net(batch.user, batch.places, batch.popularity, batch.affinity),
        batch.labels,
        batch.places > 0,
        kept=batch.kept,
        listwise_weight=listwise_weight,
    )


def thin(
    real: Tensor, hit: Tensor, count: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A choice of `count` candidates: all with an outcome, and some of the rest at random.

    Args:
        real: `(B, C)` bool, false for padding, which comes last.
        hit: `(B, C)` bool, those with an outcome.

    Returns:
        numbers of the chosen `(B, count)`, and `(B,)` the share of the others that was kept.
    """
    draw = torch.from_numpy(generator.random(real.shape, np.float32)) + hit.float() - 2.0 * ~real
    chosen = draw.topk(min(count, real.shape[1]), dim=1).indices
    missed = real & ~hit
    left = missed.gather(1, chosen).sum(1)
    return chosen, torch.where(left > 0, left / missed.sum(1).clamp(min=1), 1.0)
