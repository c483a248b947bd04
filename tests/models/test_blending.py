"""The weight of item-to-item memory is the one that validation ranks best by."""

import numpy as np
import torch

from models import blending, evaluation
from models.metrics.retrieval import Positives

PLACES = np.asarray([[1, 2, 3, 0], [4, 5, 6, 7]])
WANTED = Positives(np.asarray([3, 4]), np.asarray([0, 1, 2]))


def test_memory_that_knows_the_outcome_gets_the_least_weight_that_puts_it_first():
    logits = torch.tensor([[3.0, 2.0, 1.5, 0.0], [1.0, 0.0, 0.0, 0.0]])
    followed = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert blending.of_ranker(PLACES, logits, followed, WANTED) == 2.0


def test_memory_that_misleads_gets_none():
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    followed = torch.tensor([[5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]])
    assert blending.of_ranker(PLACES, logits, followed, WANTED) == 0.0


def test_retrieval_is_blended_for_the_whole_catalogue():
    from tests.models.small import planted, trainer

    made = trainer(planted())
    wanted = evaluation.positives(made.examples.requests, made.chosen, made.target)
    retriever = made.retriever()
    chosen, measured = blending.of_retriever(retriever, made.examples, made.chosen, wanted)
    figures = {}
    for weight in blending.WEIGHTS:
        made.towers.follow.fill_(weight)
        top = evaluation.nearest(retriever, made.examples, made.chosen, 50)
        figures[weight] = evaluation.list_metrics(top, wanted)["ndcg@10"].mean()
    assert figures[chosen] == measured["ndcg@10"].mean() == max(figures.values())
    assert len(set(figures.values())) > 1, "or this would show nothing"
