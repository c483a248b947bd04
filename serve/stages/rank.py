"""Rank: candidates to calibrated probabilities of every outcome. B = 1, C candidates, O heads."""

from __future__ import annotations

import torch
from torch import Tensor

from models.features import UserSide
from models.model import Recommender
from models.retrieval.retrieve import Candidates


class Rank:
    """The stage."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def __call__(self, user: UserSide, candidates: Candidates) -> Tensor:
        """`(1, C, O)` for candidates `(1, C)`."""
        if not candidates.places.shape[1]:
            return torch.zeros(1, 0, len(self._recommender.heads))
        with torch.inference_mode():
            return self._recommender.probabilities(user, candidates)
