"""What accuracy does not say of lists: how much of the catalogue, how unexpected, how varied.

Shapes: `R` requests, `K` ranks, `I` places of the catalogue (0: no item).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def self_information(counts: Ints) -> Floats:
    """(I,) `-log2` of each place's share of `counts` (I,), one event added to each.

    Novelty as mean self-information (Zhou et al., 2010): a list of what all know says little.
    """
    shares = counts + 1.0
    shares[0] = 0
    total = shares.sum()
    shares[0] = total  # no item says nothing
    return np.asarray(-np.log2(shares / total))


def novelty(top: Ints, information: Floats) -> Floats:
    """(R,) mean `information` (I,) of the items in each list (R, K); 0 for an empty one."""
    return np.asarray(information[top].sum(1) / np.maximum((top > 0).sum(1), 1), np.float64)


def coverage(top: Ints, num_places: int) -> float:
    """Share of the `num_places - 1` items that stand in any of the lists (R, K)."""
    return len(np.unique(top[top > 0])) / max(num_places - 1, 1)


def diversity(top: Ints, vectors: NDArray[np.float32]) -> Floats:
    """(R,) mean distance of two items of each list (R, K), which is 1 less their product.

    `vectors` (I, D) have length 1, or are rows with a single 1 where a category is all that is
    known. A list of fewer than two items has 0 (Ziegler et al., 2005).
    """
    real = (top > 0).astype(np.float64)
    num = real.sum(1)
    total = np.zeros((len(top), vectors.shape[1]))
    own = np.zeros(len(top))
    for rank in range(top.shape[1]):  # never all lists' vectors at once
        found = vectors[top[:, rank]] * real[:, rank, None]
        total += found
        own += (found**2).sum(1)
    alike = (total**2).sum(1) - own
    pairs = num * (num - 1)
    return np.where(pairs > 0, np.maximum(1 - alike / np.maximum(pairs, 1), 0.0), 0.0)
