"""Metrics of scored candidate lists: order (AUC, NDCG) and probability (log loss, calibration).

Ties are never broken by the order of the rows: tied candidates share the average of what they
would get under every order. A constant score therefore earns an AUC of exactly one half.
Shapes: `N` candidates (all requests together), `G` groups, `T` runs of equal scores in a group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a positive outranks a negative, ties counting one half (Mann-Whitney).

    `labels` (N,) of 0 and 1; `scores` (N,) without NaN. ValueError when one class is missing.
    """
    truth, numbers = _checked(labels, scores)
    value = _group_auc(_tied_runs(truth, numbers, np.zeros(len(truth), dtype=np.int64)))
    if len(value) == 0 or np.isnan(value[0]):
        raise ValueError("auc: labels hold one class only; AUC needs positives and negatives")
    return float(value[0])


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> float:
    """Mean of the groups' AUCs, weighted by their number of candidates (Zhou et al., 2018, DIN).

    Only groups with both classes count; `groups` (N,) names each candidate's request or user.
    ValueError when no group has both classes.
    """
    truth, numbers = _checked(labels, scores)
    runs = _tied_runs(truth, numbers, np.asarray(groups))
    values = _group_auc(runs)
    defined = ~np.isnan(values)
    if not defined.any():
        raise ValueError("gauc: no group has both a positive and a negative; widen the groups")
    return float(np.average(values[defined], weights=runs.totals(runs.size)[defined]))


def grouped_ndcg(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, k: int) -> float:
    """Plain mean over groups of the binary NDCG at k, over groups with at least one positive.

    A tied run shares its mean label over its ranks: the expectation under random tie breaking
    (McSherry and Najork, 2008). ValueError when k < 1 or no group has a positive.
    """
    if k < 1:
        raise ValueError(f"grouped_ndcg: k={k}; pass a cut-off of at least 1")
    truth, numbers = _checked(labels, scores)
    runs = _tied_runs(truth, -numbers, np.asarray(groups))  # descending score: rank order
    positives = runs.totals(runs.positives)
    counted = positives > 0
    if not counted.any():
        raise ValueError("grouped_ndcg: no group has a positive; NDCG is undefined")
    # discounted[m]: the gain of hits at all of the first m ranks, none counted past k.
    ranks = np.arange(1, min(k, len(truth)) + 1)
    discounted = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(ranks + 1))])
    first = runs.before(runs.size)
    low, high = np.minimum(first, k), np.minimum(first + runs.size, k)
    gained = runs.totals(runs.positives / runs.size * (discounted[high] - discounted[low]))
    ideal = discounted[np.minimum(positives.astype(np.int64), k)]
    return float(np.mean(gained[counted] / ideal[counted]))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log likelihood in nats of `labels` (N,) under `probabilities` (N,) of a 1.

    Probabilities are clipped by the float64 epsilon, so a certain mistake costs about 36 nats.
    """
    truth, chances = _checked(labels, probabilities)
    _check_probabilities(chances, "log_loss")
    epsilon = np.finfo(np.float64).eps
    clipped = np.clip(chances, epsilon, 1 - epsilon)
    return float(-np.mean(np.where(truth == 1, np.log(clipped), np.log1p(-clipped))))


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: mass-weighted mean of |mean label - mean probability| over bins.

    Bins have equal mass (N / bins candidates each, to within one), not equal width: click
    probabilities crowd near 0, where equal widths would leave one bin with all candidates. Equal
    probabilities always share a bin, so bins can be fewer and uneven under heavy ties.
    """
    if bins < 1:
        raise ValueError(f"calibration_error: bins={bins}; pass at least 1")
    truth, chances = _checked(labels, probabilities)
    _check_probabilities(chances, "calibration_error")
    _, inverse, counts = np.unique(chances, return_inverse=True, return_counts=True)
    # Each distinct probability goes where the middle of its run falls in the sorted order.
    twice_middle = 2 * (np.cumsum(counts) - counts) + counts
    chosen = (twice_middle * bins // (2 * len(chances)))[inverse]
    gaps = np.bincount(chosen, weights=truth - chances)
    return float(np.abs(gaps).sum() / len(chances))


@dataclass(frozen=True)
class _Runs:
    """Runs of equal scores, ordered by group and then by ascending score: each array is (T,)."""

    group: Ints  # dense index of the run's group
    size: Ints
    positives: Ints

    def totals(self, amounts: NDArray[np.generic]) -> Floats:
        """(G,) sum of `amounts` (T,) over the runs of each group."""
        return np.asarray(np.bincount(self.group, weights=amounts), dtype=np.float64)

    def before(self, amounts: Ints) -> Ints:
        """(T,) sum of `amounts` (T,) over the earlier runs of the same group."""
        exclusive = np.cumsum(amounts) - amounts
        first = np.searchsorted(self.group, self.group, side="left")
        return np.asarray(exclusive - exclusive[first], dtype=np.int64)


def _tied_runs(labels: Ints, scores: Floats, groups: NDArray[np.generic]) -> _Runs:
    if groups.shape != labels.shape:
        raise ValueError(f"groups have shape {groups.shape}, labels {labels.shape}; pass both (N,)")
    dense = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((scores, dense))
    group, score = dense[order], scores[order]
    fresh = np.ones(len(order), dtype=np.bool_)
    fresh[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    first = np.flatnonzero(fresh)
    return _Runs(
        group=group[first],
        size=np.diff(first, append=len(order)).astype(np.int64),
        positives=np.add.reduceat(labels[order], first),
    )


def _group_auc(runs: _Runs) -> Floats:
    """(G,) AUC of each group, NaN where a class is missing."""
    negatives = runs.size - runs.positives
    wins = runs.totals(runs.positives * (runs.before(negatives) + negatives / 2))
    pairs = runs.totals(runs.positives) * runs.totals(negatives)
    values = np.full(len(pairs), np.nan)
    np.divide(wins, pairs, out=values, where=pairs > 0)
    return values


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    truth, numbers = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != numbers.shape or len(truth) == 0:
        raise ValueError(
            f"labels have shape {truth.shape} and scores {numbers.shape};"
            " pass two arrays of one length, not empty"
        )
    if not np.all((truth == 0) | (truth == 1)):
        raise ValueError("labels must be 0 or 1; turn graded outcomes into binary ones first")
    if np.isnan(numbers).any():
        raise ValueError(f"scores hold {int(np.isnan(numbers).sum())} NaN; every score must order")
    return truth.astype(np.int64), numbers


def _check_probabilities(chances: Floats, where: str) -> None:
    if chances.min() < 0 or chances.max() > 1:
        raise ValueError(f"{where}: probabilities outside [0, 1]; apply the calibration to logits")
