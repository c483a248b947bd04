"""What one request costs a release: counted, not timed, so that it is the same on every machine.

B requests, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.features import UserSide
from models.model import Recommender


@dataclass(frozen=True)
class Cost:
    """The work of one request, and the room of the weights."""

    multiply_adds: int
    """Of all matrix products: user side, scores of the whole catalogue, ranking of C candidates."""
    weight_bytes: int
    """Of both networks."""

    @property
    def total(self) -> float:
        """Millions of multiply-adds and bytes together.

        A byte of weights counts like one step of arithmetic: memory costs money too.
        """
        return (self.multiply_adds + self.weight_bytes) / 1e6


def serving_cost(recommender: Recommender, user: UserSide, num_candidates: int) -> Cost:
    """Counts one request of `user` (B = 1) with exactly `num_candidates` candidates.

    Item vectors are encoded at release, not on request, so they are not in it.
    """
    items = len(recommender.catalogue) - 1
    places = (1 + torch.arange(num_candidates) % items)[None]
    with FlopCounterMode(display=False) as counter:
        found = recommender.retriever.given(user, places)
        recommender.logits(user, found)
    nets = (recommender.retriever.net, recommender.ranker)
    # A product and a sum are two operations of floating point, and one multiply-add.
    return Cost(
        multiply_adds=counter.get_total_flops() // 2,
        weight_bytes=sum(p.numel() * p.element_size() for net in nets for p in net.parameters()),
    )
