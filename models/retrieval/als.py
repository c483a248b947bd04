"""Matrix factorisation by alternating least squares (Hu, Koren and Volinsky, 2008) as a baseline.

`implicit` fits it; it comes with the `dev` extra and is not needed for anything else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.retrieval.baselines import Histories, Interactions, Requests, Scores, blocks, finish

NEEDS = "implicit"


def is_there() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec(NEEDS) is not None


class Als:
    """Items whose factors meet those of the user's history.

    A request's user is folded in from the distinct items that they had chosen before it, so people
    who came after the fit have factors too. Users without history score 0 throughout.

    Args:
        fit: the log that item factors are fitted on.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        fit: Interactions,
        factors: int,
        regularisation: float = 0.01,
        iterations: int = 15,
        seed: int = 1,
    ) -> None:
        from implicit.als import AlternatingLeastSquares

        self._log = log.choices()
        self._histories = Histories(self._log)
        self._model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularisation,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        chosen = fit.choices()
        users, user = np.unique(chosen.user, return_inverse=True)
        shape = (len(users), log.num_items + 1)
        self._model.fit(_distinct(user, chosen.item, shape), show_progress=False)

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """Products of factors."""
        width = self._log.num_items + 1
        items: NDArray[np.float32] = np.asarray(self._model.item_factors)
        for rows in blocks(len(requests.user), self._log.num_items):
            row, event = self._histories.before(requests, rows)
            num = len(requests.user[rows])
            history = _distinct(row, self._log.item[event], (num, width))
            found = np.asarray(self._model.recalculate_user(np.arange(num), history))
            yield finish(np.asarray(found @ items.T, np.float32))


def _distinct(
    row: NDArray[np.int64], item: NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """1 for each distinct pair."""
    pairs = np.unique(np.stack([row, item], axis=1), axis=0)
    ones = np.ones(len(pairs), np.float32)
    return sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=shape)
