"""Arrange: head probabilities to one value, and the order of the slate."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from models.config import Config


class ArrangeConfig(Config):
    """What a slate is for."""

    values: dict[str, float] = Field(default_factory=dict)
    """Worth of each outcome; empty: 1 for the target, 0 for the others."""
    relevance_weight: float = Field(0.5, ge=0, le=1)
    """In search: how much agreement with the query counts beside the value."""


def value(probabilities: Tensor, heads: tuple[str, ...], config: ArrangeConfig) -> Tensor:
    """`(B, C)` expected worth of each candidate from head probabilities `(B, C, O)`.

    Raises:
        ValueError: when a configured outcome is no head of the ranker.
    """
    unknown = [name for name in config.values if name not in heads]
    if unknown:
        raise ValueError(f"arrange.values: {unknown} are none of the ranker's heads {heads}")
    worth = config.values or {heads[-1]: 1.0}
    return probabilities @ torch.tensor([worth.get(name, 0.0) for name in heads])


def mix(values: Tensor, relevance: Tensor, config: ArrangeConfig) -> Tensor:
    """`(B, C)` score of search results: relevance and value, each with its best at 1."""
    scaled = values / values.amax(1, keepdim=True).clamp(min=1e-9)
    return config.relevance_weight * relevance + (1 - config.relevance_weight) * scaled


def order(scores: Tensor, places: Tensor) -> Tensor:
    """`(B, C)` candidate numbers best first; equal scores by place, padding last."""
    scores = scores.masked_fill(places == 0, float("-inf"))
    by_place = torch.argsort(places, dim=1, stable=True)
    best = torch.argsort(scores.gather(1, by_place), dim=1, descending=True, stable=True)
    return by_place.gather(1, best)
