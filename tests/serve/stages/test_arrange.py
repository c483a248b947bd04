import numpy as np
import torch

from models.ranking.arrange import ArrangeConfig
from models.retrieval.retrieve import Candidates
from serve.stages.arrange import Arrange
from tests.worlds import World

RECOMMENDER = World().recommender()
FOUND = Candidates(
    places=torch.tensor([[4, 9, 2]]),
    provenance=torch.tensor([[1, 2, 16]]),
    relevance=torch.tensor([[0.2, 1.0, 0.5]]),
    affinity=torch.zeros(1, 3),
    followed=torch.zeros(1, 3),
)
CHANCES = torch.tensor([[[0.1], [0.2], [0.4]]])


def arranged(search: bool, chances: torch.Tensor | None = CHANCES, **config: float):
    arrange = Arrange(RECOMMENDER, ArrangeConfig(**config))
    return arrange(FOUND, chances, search=search).rows


def test_recommendations_are_ordered_by_value():
    rows = arranged(False)
    assert rows["place"].tolist() == [2, 9, 4]
    assert rows["provenance"].tolist() == [16, 2, 1]
    assert np.allclose(rows["score"], [0.4, 0.2, 0.1])


def test_search_mixes_value_and_relevance():
    assert arranged(True, relevance_weight=1.0)["place"].tolist() == [9, 2, 4]
    assert arranged(True, relevance_weight=0.0)["place"].tolist() == [2, 9, 4]


def test_without_ranking_retrieval_decides():
    rows = arranged(True, None)
    assert rows["place"].tolist() == [9, 2, 4]
    assert np.isnan(rows["score"]).all()


def test_an_empty_slate_is_one():
    none = Candidates(*(tensor[:, :0] for tensor in vars(FOUND).values()))
    slate = Arrange(RECOMMENDER, ArrangeConfig())(none, CHANCES[:, :0], search=True)
    page, rest = slate.cut(10)
    assert len(page.rows) == len(rest.rows) == 0


def test_a_cut_loses_nothing():
    slate = Arrange(RECOMMENDER, ArrangeConfig())(FOUND, CHANCES, search=False)
    page, rest = slate.cut(2)
    assert (page.first_rank, rest.first_rank) == (1, 3)
    assert page.rows["place"].tolist() + rest.rows["place"].tolist() == [2, 9, 4]
