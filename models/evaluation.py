"""Measuring a recommender on requests: full rankings and candidate lists, nothing sampled.

R requests, B requests at a time, C candidates, K ranks, O outcome heads, I places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.examples import Examples, Ints, Requests
from models.features import UserSide
from models.metrics import ranking, retrieval
from models.model import Recommender
from models.ranking.arrange import order
from models.retrieval.index import best
from models.retrieval.retrieve import Retriever

Floats = NDArray[np.float64]
BATCH = 128
CUTS = (10, 20, 50)
"""Ranks at which lists are cut for recall; NDCG is at the first."""


@dataclass(frozen=True)
class Scored:
    """The candidates of R requests with what came of them."""

    places: Ints
    """`(R, C)`, 0 for none."""
    logits: NDArray[np.float32]
    """`(R, C, O)`, not calibrated."""
    followed: NDArray[np.float32]
    """`(R, C)` how much each follows what the user did; it is part of the logits."""
    labels: NDArray[np.float32]
    """`(R, C, O)`."""

    def flat(self, head: int) -> tuple[NDArray[np.float32], NDArray[np.float32], Ints]:
        """Labels, logits and request numbers of all real candidates, `(N,)` each."""
        real = self.places > 0
        request = np.broadcast_to(np.arange(len(self.places))[:, None], self.places.shape)
        return self.labels[..., head][real], self.logits[..., head][real], request[real]


def batches(rows: Ints) -> Iterator[Ints]:
    """`BATCH` rows at a time."""
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def positives(requests: Requests, rows: Ints, target: int) -> retrieval.Positives:
    """What each request `(R,)` should have found: its outcomes with head `target`.

    Raises:
        ValueError: when a request has none; see `with_target`.
    """
    which, items, bits = requests.pairs(rows)
    hit = (bits >> target) & 1 > 0
    offsets = np.append(0, np.cumsum(np.bincount(which[hit], minlength=len(rows))))
    return retrieval.Positives(items[hit], offsets.astype(np.int64))


def with_target(requests: Requests, rows: Ints, target: int) -> Ints:
    """Those of `rows` that have an outcome with head `target`."""
    which, _, bits = requests.pairs(rows)
    return rows[np.unique(which[(bits >> target) & 1 > 0])]


def of_some_users(requests: Requests, rows: Ints, *, at_most: int | None, seed: int) -> Ints:
    """Those of `rows` `(R,)` whose users are drawn, in order; all of them with `at_most` None.

    Users are drawn whole, so that a bootstrap over users stays right, until the next one would
    bring more than `at_most` requests.

    Raises:
        ValueError: when not even the first user's requests fit.
    """
    if at_most is None or len(rows) <= at_most:
        return rows
    _, who, num = np.unique(requests.user[rows], return_inverse=True, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(num))
    chosen = drawn[np.cumsum(num[drawn]) <= at_most]
    if not len(chosen):
        raise ValueError(
            f"evaluate.max_requests={at_most}: the first user drawn has {num[drawn[0]]} requests; "
            "allow more"
        )
    return rows[np.isin(who, chosen)]


def list_metrics(top: Ints, wanted: retrieval.Positives) -> dict[str, Floats]:
    """`(R,)` of each metric, for rankings `(R, K)` of places, 0 after the last."""
    missing = max(max(CUTS) - top.shape[1], 0)
    top = np.pad(top, ((0, 0), (0, missing)))  # a small catalogue has fewer places than ranks
    hits = retrieval.hits(np.where(top > 0, top, -1), wanted)
    cuts = {f"recall@{k}": retrieval.recall_at(hits, wanted.num, k) for k in CUTS}
    ndcg = retrieval.ndcg_at(hits, wanted.num, CUTS[0])
    return {**cuts, f"ndcg@{CUTS[0]}": ndcg, "mrr": retrieval.mrr(hits)}


def nearest(retriever: Retriever, examples: Examples, rows: Ints, count: int) -> Ints:
    """`(R, K)` the retriever's own full ranking, without the other sources.

    Where `candidates.drop_seen` is on, without all that the user met before the request.
    """

    def scores(user: UserSide) -> Tensor:
        return retriever.worth(retriever.affinity(user), retriever.followed(user))

    return _ranked(scores, retriever, examples, rows, count)


def following(retriever: Retriever, examples: Examples, rows: Ints, count: int) -> Ints:
    """`(R, K)` the same by what follows what alone; places that follow nothing are left out."""

    def scores(user: UserSide) -> Tensor:
        followed = retriever.followed(user)
        return followed.masked_fill(followed == 0, float("-inf"))

    return _ranked(scores, retriever, examples, rows, count)


def _ranked(
    scores: Callable[[UserSide], Tensor],
    retriever: Retriever,
    examples: Examples,
    rows: Ints,
    count: int,
) -> Ints:
    tops = []
    for part in batches(rows):
        user = examples.user_side(part)
        found = retriever.left(scores(user), examples.seen(part))
        tops.append(best(found, count, known=retriever.known(user.now_days))[0])
    return torch.cat(tops).numpy()


Reading = Callable[[Ints], UserSide]
"""How the memory of requests `(B,)` is read: in full, in part, or somebody else's."""


def scored(
    recommender: Recommender,
    examples: Examples,
    rows: Ints,
    *,
    reading: Reading | None = None,
    candidates: Ints | None = None,
) -> Scored:
    """Retrieves for each request and ranks what was found.

    Args:
        reading: the user side to go by; None: `examples.user_side`.
        candidates: `(R, C)` to rank instead of what retrieval finds.
    """
    read = reading or examples.user_side
    parts: list[tuple[Tensor, ...]] = []
    for number, part in enumerate(batches(rows)):
        user = read(part)
        if candidates is None:
            found = recommender.retriever.recommend(user, seen=examples.seen(part))
        else:
            given = torch.from_numpy(candidates[number * BATCH : number * BATCH + len(part)])
            found = recommender.retriever.given(user, given)
        labels = examples.labels(part, found.places, len(recommender.heads))
        parts.append((found.places, recommender.logits(user, found), found.followed, labels))
    columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    return Scored(*columns)


def candidates(recommender: Recommender, examples: Examples, rows: Ints) -> Ints:
    """`(R, C)` what retrieval finds for each request with all of its memory."""
    found = [
        recommender.retriever.recommend(examples.user_side(part), seen=examples.seen(part))
        for part in batches(rows)
    ]
    return torch.cat([part.places for part in found]).numpy()


def retrieved(top: Ints, wanted: retrieval.Positives) -> Floats:
    """`(R,)` share of a request's positives anywhere among its candidates."""
    hits = retrieval.hits(np.where(top > 0, top, -1), wanted)
    return retrieval.recall_at(hits, wanted.num, hits.shape[1])


def slates(found: Scored, target: int) -> Ints:
    """`(R, C)` places in the ranker's order for one head."""
    scores, places = torch.from_numpy(found.logits[..., target]), torch.from_numpy(found.places)
    return places.gather(1, order(scores, places)).numpy()


def trained_counts(examples: Examples, until_ms: int) -> Ints:
    """`(I,)` how often each place occurs among the events that train.

    Args:
        until_ms: when training ended, where the split is one by time.
    """
    arrived = examples.histories.arrived
    trains = arrived < until_ms if examples.trains is None else examples.trains
    return np.bincount(examples.places[trains], minlength=len(examples.catalogue))


def kinds(examples: Examples) -> NDArray[np.float32] | None:
    """`(I, D)` a one for each place's first category; None where the catalogue has none."""
    codes = examples.catalogue.categories
    return None if not codes.shape[1] else np.eye(codes[:, 0].max() + 1, dtype="f4")[codes[:, 0]]


def ranking_metrics(found: Scored, recommender: Recommender, head: int) -> dict[str, float]:
    """AUC, grouped AUC, NDCG, log loss and calibration error of one head on candidate lists."""
    labels, logits, request = found.flat(head)
    chances = recommender.calibration[head].apply(logits)
    rate = np.full(len(labels), labels.mean())
    return {
        "auc": ranking.auc(labels, logits),
        "gauc": ranking.gauc(labels, logits, request),
        "ndcg@10": ranking.grouped_ndcg(labels, logits, request, 10),
        "log_loss": ranking.log_loss(labels, chances),
        "log_loss_of_rate": ranking.log_loss(labels, rate),
        "calibration_error": ranking.calibration_error(labels, chances),
    }
