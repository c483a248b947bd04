"""The cost of a request is counted: the same for any weights, more for more work."""

from __future__ import annotations

import numpy as np
import pytest

from models.cost import Cost, serving_cost
from models.training import StageConfig, TrainConfig
from tests.models.small import MODEL, TRAIN, planted, trainer

SMALL = planted()


def cost(num_candidates: int = 25, seed: int = 1, **changes) -> Cost:
    made = trainer(SMALL, TRAIN.model_copy(update={"seed": seed}), **changes)
    user = SMALL.examples.user_side(np.arange(1))
    return serving_cost(made.recommender(made.retriever()), user, num_candidates)


def test_the_cost_is_that_of_the_sizes_alone():
    assert cost() == cost() == cost(seed=2)
    assert cost().multiply_adds > 0


def test_each_candidate_costs_about_the_same():
    one, two, three = (cost(num).multiply_adds for num in (10, 20, 30))
    assert three - two == pytest.approx(two - one, rel=0.01)
    assert two > one
    assert cost(10).weight_bytes == cost(20).weight_bytes


def test_wider_networks_cost_more():
    wide = cost(ranker=MODEL.ranker.model_copy(update={"width": 2 * MODEL.ranker.width}))
    assert wide.multiply_adds > cost().multiply_adds
    assert wide.weight_bytes > cost().weight_bytes
    assert wide.total > cost().total


def test_the_bytes_are_those_of_both_networks():
    made = trainer(SMALL, TrainConfig(retriever=StageConfig(), ranker=StageConfig()))
    nets = (made.towers, made.ranker)
    numbers = sum(p.numel() for net in nets for p in net.parameters())
    assert cost().weight_bytes == 4 * numbers
