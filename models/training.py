"""Steps of training, one batch at a time; loops, workers and checkpoints are the job's.

B requests, C candidates, S negatives, I places of the catalogue, P outcomes, O outcome heads,
H popularity half-lives. A batch is made from rows and a place in the training alone, and holds no
gradient, so that it can be made ahead in another thread; only the loss meets the weights that are
trained. Where several workers share a step, a batch is a worker's part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from models.config import DAY_MS, Config, digest_of
from models.examples import Examples, Ints
from models.features import LEVELS, UserSide
from models.ranking.loss import inverse_propensities, ranking_loss
from models.ranking.ranker import MemoryRanker, RankerConfig
from models.retrieval.retrieve import Retriever
from models.retrieval.towers import MAX_QUERIES, RetrieverBatch, RetrieverConfig
from models.steps import LEVELS as DROPPING
from models.steps import THINNING, WORDS, Sharing, Step, alone, over_workers
from models.threads import Threads, memories_of


class StageConfig(Config):
    """The training of one network."""

    epochs: int = Field(3, gt=0)
    batch: int = Field(128, gt=0)
    """A step, over all workers: windows of history with all their requests for the retriever,
    requests for the ranker."""
    max_units: int | None = Field(None, gt=0)
    """At most so many of them train, drawn once by the seed; None: all."""
    learning_rate: float = Field(2e-3, gt=0)
    table_learning_rate: float = Field(2e-3, gt=0)
    """For embedding tables, whose rows see few steps."""
    weight_decay: float = Field(0.01, ge=0)
    patience: int = Field(2, gt=0)
    """Epochs without a better validation before stopping."""


RETRIEVER: Final[dict[str, Any]] = {"epochs": 4, "batch": 64, "patience": 1}
RANKER: Final[dict[str, Any]] = {"epochs": 2, "batch": 32, "table_learning_rate": 5e-3}
"""What a stage has where a document says nothing else of it."""


class TrainConfig(Config):
    """The training of a retriever, then of a ranker over what it retrieves."""

    retriever: StageConfig = StageConfig(**RETRIEVER)
    ranker: StageConfig = StageConfig(**RANKER)
    max_validate: int | None = Field(None, gt=0)
    """At most so many requests validate, of whole users drawn by the seed; None: all."""
    level_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of requests that see a random set of the levels of memory, so that the ablation
    measures memory and not surprise, and search without memory still works."""
    num_candidates: int = Field(96, gt=0)
    """Candidates of a ranker step; the rest of what was retrieved is thinned out."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers; 0 trains in this process."""
    cpus_per_worker: float = Field(1, gt=0)
    use_gpu: bool | None = None
    """None: where Ray has one."""
    max_failures: int = Field(1, ge=0)
    """Restarts from the last checkpoint before giving up."""
    checkpoint_every: int | None = Field(None, gt=0)
    """Steps between checkpoints within an epoch; None: only after each epoch."""
    start_from: str | None = None
    """A release or a run to take the first weights from; None: fresh ones."""
    shard_tables: bool = False
    """Whether each of several workers holds its part of the embedding tables alone, for tables that
    one device cannot hold; a step then waits for vectors of other workers."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' arithmetic in training (torch's autocast); weights stay in float32."""
    compile: bool = False
    """Whether torch.compile makes kernels of the networks; it needs a C++ compiler."""
    seed: int = 1

    @field_validator("retriever", "ranker", mode="before")
    @classmethod
    def _rest_of_a_stage(cls, given: object, info: ValidationInfo) -> object:
        """One value of a stage leaves the others as they are."""
        rest = RETRIEVER if info.field_name == "retriever" else RANKER
        return {**rest, **given} if isinstance(given, dict) else given

    def deciding(self) -> str:
        """Digest of what decides the weights; the rest may change when a training is resumed."""
        return digest_of(self.model_dump(mode="json", exclude=RUNNING))


RUNNING = {
    "num_workers",
    "cpus_per_worker",
    "use_gpu",
    "max_failures",
    "checkpoint_every",
    "shard_tables",
}
"""Fields of `TrainConfig` that say how it is run, not what comes out."""


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


@dataclass(frozen=True)
class Taken:
    """What a step was."""

    loss: float
    """Of the whole step, whoever shared it."""
    norm: float
    """Of the gradient of the dense parameters, before it was clipped to `CLIP`."""


CLIP = 1.0


def take(
    net: nn.Module, loss: Tensor, optimizers: list[torch.optim.Optimizer], *, world: int = 1
) -> Taken:
    """One step down.

    Args:
        loss: of this worker's part.
        world: how many workers share the step.

    Raises:
        ValueError: when the loss or its gradient is not finite, before any weight is harmed.
    """
    found = float(over_workers(loss.detach(), world))
    _check_finite("loss", found)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    dense = optimizers[0].param_groups[0]["params"]
    norm = float(nn.utils.clip_grad_norm_(dense, CLIP))
    _check_finite("gradient's norm", norm)
    for optimizer in optimizers:
        optimizer.step()
    return Taken(found, norm)


def _check_finite(name: str, value: float) -> None:
    if not np.isfinite(value):
        raise ValueError(
            f"the {name} is {value}: lower train.*.learning_rate, or look for extreme values in "
            "the item numbers"
        )


def warm(optimizers: list[torch.optim.Optimizer], config: StageConfig, done: float) -> None:
    """Sets the rates for a share `done` of all steps: a short warm-up, then linear to a tenth."""
    scale = min(1.0, done / 0.03 + 0.05) * max(0.1, 1 - done)
    for optimizer, rate in zip(
        optimizers, (config.learning_rate, config.table_learning_rate), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * scale


class NegativeSampler:
    """Draws items by a power of their popularity among the training outcomes, or takes all.

    Every item of the catalogue has a chance, so that unseen ones learn to stay low too. The draw is
    for a batch of many moments and follows the batch's seeded generator; `TwoTower` takes `log_q`
    off the scores, and leaves out for each request what is of its future.
    """

    def __init__(self, outcomes: Ints, num_places: int, config: RetrieverConfig) -> None:
        num_negatives = config.num_negatives
        counts = np.bincount(outcomes, minlength=num_places).astype(float)
        weights = np.maximum(counts, 0.1) ** config.negative_power
        weights[0] = 0
        self._shares = weights / weights.sum()
        self._cumulative = np.cumsum(self._shares)
        self._count = num_negatives
        self.log_q = torch.zeros(num_places)
        """`(I,)` log of the chance of each item to be in a draw."""
        if num_negatives is not None:
            missed = num_negatives * np.log1p(-np.minimum(self._shares, 1 - 1e-9))
            self.log_q = torch.from_numpy(np.log(np.maximum(-np.expm1(missed), 1e-9))).float()

    def draw(self, generator: np.random.Generator) -> Ints:
        """`(S,)` distinct places in order, as many as `num_negatives` draws bring."""
        if self._count is None:
            return np.arange(1, len(self._shares))
        found = np.searchsorted(self._cumulative, generator.random(self._count))
        return np.unique(np.minimum(found, len(self._shares) - 1))


def drop_levels(rows: Ints, share: float, step: Step) -> Tensor:
    """`(B, 3)` bool: which levels of memory each request `(B,)` keeps.

    A `share` of the requests keeps a random set of levels, each set as likely, none included; the
    others keep all.
    """
    drawn = step.uniforms(rows, 1 + len(LEVELS), purpose=DROPPING)
    return torch.from_numpy((drawn[:, 1:] < 0.5) | (drawn[:, :1] >= share))


def retriever_batch(
    examples: Examples,
    threads: Threads,
    chosen: Ints,
    *,
    target: int,
    sampler: NegativeSampler,
    config: TrainConfig,
    step: Step,
) -> RetrieverBatch:
    """A worker's part of one batch for `TwoTower.forward`.

    Its positives are the outcomes with head `target` of the requests in its threads.

    Args:
        chosen: the threads of all workers.
    """
    mine = step.mine(chosen)
    rows = threads.requests_of(mine)[1]
    keep = drop_levels(rows, config.level_dropout, step)
    memories, cells = memories_of(examples, threads, mine, keep)
    request, items = _outcomes(examples, rows, target)
    asked, words = _queries(examples, threads, chosen, target=target, step=step)
    negatives = sampler.draw(step.generator())
    now = torch.from_numpy(examples.requests.as_of_ms[rows] / DAY_MS)
    slots, known = _among(negatives, memories.item.numpy())
    positives = torch.from_numpy(items)
    steps, at = examples.popularity.steps(now)
    return RetrieverBatch(
        memories=memories,
        cells=cells,
        now_days=now,
        positives=positives,
        request=torch.from_numpy(request),
        negatives=torch.from_numpy(negatives),
        log_q=sampler.log_q[torch.from_numpy(np.append(items, negatives))],
        closed=torch.from_numpy(_closed(examples, rows, negatives, request, items)),
        slots=torch.from_numpy(np.where(known, slots, len(negatives))),
        step=at,
        popularity=torch.stack([examples.popularity.step(s)[negatives] for s in steps]),
        popularity_hit=examples.popularity.read(now[request], positives[:, None])[:, 0],
        asked=torch.from_numpy(asked),
        keep_words=torch.from_numpy(words),
    )


def _outcomes(examples: Examples, rows: Ints, target: int) -> tuple[Ints, Ints]:
    """Number in rows `(R,)` and place, `(P,)` each, of their outcomes with the target."""
    request, items, bits = examples.requests.pairs(rows)
    hit = (bits >> target) & 1 > 0
    return request[hit], items[hit]


def _queries(
    examples: Examples, threads: Threads, chosen: Ints, *, target: int, step: Step
) -> tuple[Ints, NDArray[np.bool_]]:
    """Made-up queries for some outcomes of a step.

    Returns:
        numbers `(Q,)` among this worker's outcomes, and `(Q, G)` the words that each query holds.
    """
    keys = []
    for some in (step.mine(chosen), chosen)[: min(step.world, 2)]:
        rows = threads.requests_of(some)[1]
        request, items = _outcomes(examples, rows, target)
        keys.append(rows[request] * len(examples.catalogue) + items)
    draws = [step.uniforms(key, 1, purpose=WORDS)[:, 0] for key in keys]
    most = np.sort(draws[-1])[:MAX_QUERIES].max(initial=-1.0)
    asked = np.flatnonzero(draws[0] <= most)
    drawn = step.uniforms(keys[0][asked], 2 + examples.features.text_grams, purpose=WORDS)
    # Each word of an item's text is kept with a chance of its own item: short and long queries.
    return asked, drawn[:, 1:2] * 0.8 + 0.1 > drawn[:, 2:]


def _closed(examples: Examples, rows: Ints, negatives: Ints, request: Ints, items: Ints) -> Ints:
    """`(2, K)` request and number of a negative that it led to or could not know."""
    number, found = _among(negatives, items)
    own = np.stack([request[found], number[found]])
    appeared = examples.catalogue.first_seen_ms[negatives]
    now = examples.requests.as_of_ms[rows]
    late = np.flatnonzero(appeared >= now.min(initial=np.iinfo(np.int64).max))
    future = np.stack(np.nonzero(appeared[late] >= now[:, None]))
    future[1] = late[future[1]]
    return np.concatenate([own, future], axis=1)


def _among(negatives: Ints, places: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The number of each place among negatives in order, and whether it is one."""
    number = np.minimum(np.searchsorted(negatives, places), len(negatives) - 1)
    return number, negatives[number] == places


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
    step: Step,
) -> RankerBatch:
    """A worker's part of one batch for `ranker_loss`; `rows` are the requests of all workers.

    The candidates of a request are the slate that was shown, where the log has it: what was shown
    and not chosen was turned down. Otherwise they are what retrieval would bring. All outcomes
    among them are kept, and of the rest as many as `config.num_candidates` has room for.
    """
    rows = step.mine(rows)
    user = examples.user_side(rows).keep(drop_levels(rows, config.level_dropout, step))
    slates = examples.requests.slates(rows)
    places, affinity = candidates_of(retriever, user, torch.from_numpy(slates.places))
    labels = examples.labels(rows, places, num_heads)
    drawn = torch.from_numpy(step.uniforms(rows, places.shape[1], purpose=THINNING))
    chosen, kept = thin(places > 0, labels.any(2), config.num_candidates, draw=drawn)
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


def ranker_loss(
    net: nn.Module, batch: RankerBatch, *, config: RankerConfig, share: Sharing = alone
) -> Tensor:
    """The loss of one batch that lies on the network's device, with what its open gates cost."""
    loss = ranking_loss(
        net(batch.user, batch.places, batch.popularity, batch.affinity, batch.positions),
        batch.labels,
        batch.places > 0,
        kept=batch.kept,
        listwise_weight=config.listwise_weight,
        weights=inverse_propensities(batch.propensities, config.propensity_clip),
        share=share,
    )
    ranker = cast(MemoryRanker, getattr(net, "module", net))  # DDP wraps it
    return loss + config.gate_weight * ranker.gate.values().sum()


def thin(real: Tensor, hit: Tensor, count: int, *, draw: Tensor) -> tuple[Tensor, Tensor]:
    """A choice of `count` candidates: all with an outcome, and some of the rest at random.

    Args:
        real: `(B, C)` bool, false for padding, which comes last.
        hit: `(B, C)` bool, those with an outcome.
        draw: `(B, C)` random numbers in [0, 1).

    Returns:
        numbers of the chosen `(B, count)`, and `(B,)` the share of the others that was kept.
    """
    chosen = (draw + hit.float() - 2.0 * ~real).topk(min(count, real.shape[1]), dim=1).indices
    missed = real & ~hit
    left = missed.gather(1, chosen).sum(1)
    return chosen, torch.where(left > 0, left / missed.sum(1).clamp(min=1), 1.0)
