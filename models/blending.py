"""How much item-to-item memory counts beside what the networks say, chosen on validation.

R requests, I places, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import evaluation
from models.examples import Examples, Ints
from models.metrics import retrieval
from models.ranking.arrange import order
from models.retrieval.index import best
from models.retrieval.retrieve import Retriever

Measured = dict[str, NDArray[np.float64]]
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What the strongest follower of an average item may be worth, in logits. Without any use, 0."""


def of_retriever(
    retriever: Retriever, examples: Examples, rows: Ints, wanted: retrieval.Positives
) -> tuple[float, Measured]:
    """The weight under which the whole catalogue is ranked best for requests `(R,)`.

    And `evaluation.list_metrics` under it.
    """
    count = max(evaluation.CUTS)

    def ranked() -> Iterable[Callable[[float], Tensor]]:
        for part in evaluation.batches(rows):
            user = examples.user_side(part)
            affinity = retriever.left(retriever.affinity(user), examples.seen(part))
            known = retriever.known(user.now_days)
            yield partial(_nearest, affinity, retriever.followed(user), known, count)

    weights = WEIGHTS if retriever.successors is not None else WEIGHTS[:1]
    return _best(ranked(), wanted, weights)


def _nearest(
    affinity: Tensor, followed: Tensor, known: Tensor, count: int, weight: float
) -> Tensor:
    return best(affinity + weight * followed, count, known=known)[0]


def of_ranker(places: Ints, logits: Tensor, followed: Tensor, wanted: retrieval.Positives) -> float:
    """The weight under which candidates `(R, C)`, with logits and memory of them, rank best."""
    given = torch.from_numpy(places)

    def ranked(weight: float) -> Tensor:
        return given.gather(1, order(logits + weight * followed, given))

    return _best([ranked], wanted, WEIGHTS)[0]


def _best(
    ranked: Iterable[Callable[[float], Tensor]],
    wanted: retrieval.Positives,
    weights: Sequence[float],
) -> tuple[float, Measured]:
    tops: list[list[Tensor]] = [[] for _ in weights]
    for rank in ranked:
        for found, weight in zip(tops, weights, strict=True):
            found.append(rank(weight))
    measured = [evaluation.list_metrics(torch.cat(top).numpy(), wanted) for top in tops]
    name = f"ndcg@{evaluation.CUTS[0]}"
    best_ = int(np.argmax([found[name].mean() for found in measured]))
    return weights[best_], measured[best_]
