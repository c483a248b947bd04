"""Metrics of full rankings: each request has its ranking of the catalogue and its set of positives.

Nothing is sampled: `top_items` holds the head of the ranking of the *whole* catalogue.
Shapes: `R` requests, `K` ranks, `P` positives of all the requests together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Positives:
    """The relevant items of `R` requests: request r has `items[offsets[r]:offsets[r + 1]]`.

    `items` (P,) int64 catalogue indices, distinct within a request; `offsets` (R + 1,) int64.
    Raises ValueError on malformed offsets, and on a request without positives: no metric is
    defined for it, so the caller decides whether to drop it.
    """

    items: Ints
    offsets: Ints

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or self.items.ndim != 1 or len(self.offsets) == 0:
            raise ValueError("Positives: pass one-dimensional items (P,) and offsets (R + 1,)")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(
                f"Positives: offsets run from {self.offsets[0]} to {self.offsets[-1]}; they must"
                f" run from 0 to the number of items, {len(self.items)}"
            )
        empty = np.flatnonzero(self.num <= 0)
        if len(empty):
            raise ValueError(
                f"Positives: {len(empty)} requests have no positive (first: request {empty[0]});"
                " drop them before measuring"
            )
        if len(self.items) and self.items.min() < 0:
            raise ValueError("Positives: negative item index; -1 is only padding in a ranking")
        keys = _request_keys(self.requests, self.items, self.items.max(initial=0) + 1)
        if len(np.unique(keys)) < len(keys):
            raise ValueError("Positives: an item occurs twice in a request; keep it once")

    @property
    def num(self) -> Ints:
        """(R,) number of positives of each request, at least 1."""
        return np.diff(self.offsets)

    @property
    def requests(self) -> Ints:
        """(P,) request of each positive."""
        return np.repeat(np.arange(len(self.num), dtype=np.int64), self.num)


def hits(top_items: Ints, positives: Positives) -> Bools:
    """(R, K) bool: whether each ranked item is a positive of its request.

    `top_items` (R, K) int64 catalogue indices, best first, padded at the end with -1 (never a hit).
    Raises ValueError when the requests differ in number or a ranking holds an item twice.
    """
    if top_items.ndim != 2 or len(top_items) != len(positives.num):
        raise ValueError(
            f"hits: top_items has shape {top_items.shape} and there are positives of"
            f" {len(positives.num)} requests; pass one ranking (a row) for each request"
        )
    ordered = np.sort(top_items, axis=1)
    if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)):
        raise ValueError("hits: a ranking holds an item twice; keep its best rank only")
    # One integer names a (request, item) pair, so a single membership test serves all requests.
    stride = max(top_items.max(initial=0), positives.items.max(initial=0)) + 1
    rows = np.arange(len(top_items), dtype=np.int64)[:, None]
    ranked = _request_keys(rows, top_items, stride)
    relevant = _request_keys(positives.requests, positives.items, stride)
    return np.isin(ranked, relevant) & (top_items >= 0)


def recall_at(hits: Bools, num_positives: Ints, k: int) -> Floats:
    """(R,) share of a request's positives found in its first k ranks.

    The divisor is the number of positives, not min(k, number): with more than k positives
    the best possible recall is below 1, and the metric never falls as k grows.
    `hits` (R, K) bool; `num_positives` (R,). Raises ValueError unless 1 <= k <= K.
    """
    _check(hits, num_positives, k)
    return np.asarray(hits[:, :k].sum(axis=1) / num_positives, dtype=np.float64)


def ndcg_at(hits: Bools, num_positives: Ints, k: int) -> Floats:
    """(R,) binary NDCG: sum of 1 / log2(1 + rank) over hits, divided by that of a perfect ranking.

    The perfect ranking has min(k, number of positives) hits at its head (Järvelin and
    Kekäläinen, 2002). `hits` (R, K) bool; `num_positives` (R,). ValueError unless 1 <= k <= K.
    """
    _check(hits, num_positives, k)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discounts)[np.minimum(num_positives, k) - 1]
    # Both sums run over the ranks in order, so that a perfect ranking gives exactly 1.
    gained = np.cumsum(hits[:, :k] * discounts, axis=1)[:, -1]
    return np.asarray(gained / ideal, dtype=np.float64)


def mrr(hits: Bools) -> Floats:
    """(R,) reciprocal rank of the first hit of `hits` (R, K) bool, 0 where there is none."""
    if hits.shape[1] == 0:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)


def _request_keys(requests: Ints, items: Ints, stride: int) -> Ints:
    return requests * np.int64(stride) + items


def _check(hits: Bools, num_positives: Ints, k: int) -> None:
    if hits.ndim != 2 or num_positives.shape != hits.shape[:1]:
        raise ValueError(
            f"hits have shape {hits.shape} and num_positives {num_positives.shape};"
            " pass (R, K) and (R,)"
        )
    if not 1 <= k <= hits.shape[1]:
        raise ValueError(
            f"k={k} with rankings of {hits.shape[1]} ranks; retrieve at least k items"
            " (pad with -1 where the catalogue is smaller)"
        )
    if np.any(num_positives < 1):
        raise ValueError("num_positives holds a request without positives; drop it first")
