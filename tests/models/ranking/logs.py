"""Synthetic logs for the ranker: requests without history, whose truth is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from models.model import ModelConfig, build
from models.ranking.ranker import MemoryRanker
from models.training import RankerBatch, StageConfig, optimizers, ranker_loss, take
from tests.models.small import CATALOGUE, MODEL, NUM_LONG, nobody

NUM_REQUESTS, NUM_CANDIDATES = 64, 8
STAGE = StageConfig(learning_rate=1e-2, table_learning_rate=1e-2)


def ranker(seed: int = 0, **changes: object) -> tuple[MemoryRanker, ModelConfig]:
    """Fresh weights for one head, without dropout and without the listwise part."""
    config = {"dropout": 0.0, "listwise_weight": 0.0, "gate_weight": 0.0, **changes}
    ranking = MODEL.ranker.model_copy(update=config)
    model = MODEL.model_copy(update={"heads": ("purchase",), "ranker": ranking})
    torch.manual_seed(seed)
    return build(CATALOGUE, model)[1], model


def unlabelled(rng: np.random.Generator) -> RankerBatch:
    """Random candidates at random moments, all numbers from a normal distribution, none shown."""
    user = nobody((60 + rng.integers(20, size=NUM_REQUESTS)).tolist())
    long = torch.from_numpy(rng.normal(size=(NUM_REQUESTS, NUM_LONG)).astype(np.float32))
    size = (NUM_REQUESTS, NUM_CANDIDATES)
    return RankerBatch(
        user=replace(user, long=long),
        places=torch.from_numpy(rng.integers(1, len(CATALOGUE), size)),
        popularity=torch.from_numpy(rng.normal(size=(*size, 3)).astype(np.float32)),
        affinity=torch.from_numpy(rng.normal(size=size).astype(np.float32)),
        labels=torch.zeros(*size, 1),
        kept=torch.ones(NUM_REQUESTS),
        positions=torch.full(size, -1),
        propensities=torch.full(size, float("nan")),
    )


Log = Callable[[np.random.Generator], RankerBatch]


def train(log: Log, *, steps: int, seed: int = 0, **changes: object) -> MemoryRanker:
    """A ranker after some steps over fresh batches of a log."""
    net, model = ranker(seed, **changes)
    rng, tools = np.random.default_rng(seed), optimizers(net.train(), STAGE)
    for number in range(steps):
        for tool, rate in zip(tools, (1e-2, 1e-2), strict=True):
            tool.param_groups[0]["lr"] = rate * max(0.1, 1 - number / steps)
        take(net, ranker_loss(net, log(rng), config=model.ranker), tools)
    return net.eval()


@torch.no_grad()
def logits(net: MemoryRanker, batch: RankerBatch) -> torch.Tensor:
    """`(B, C)` as in serving."""
    return net(batch.user, batch.places, batch.popularity, batch.affinity)[..., 0]


def drawn(rng: np.random.Generator, chances: torch.Tensor) -> torch.Tensor:
    """`(B, C, 1)` labels."""
    return torch.from_numpy(rng.random(chances.shape) < chances.numpy()).float()[..., None]
