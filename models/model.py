"""The two networks of one configuration, and what they are together: a recommender.

B requests, C candidates, O outcome heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.catalogue import Catalogue, CatalogueConfig
from models.config import Config
from models.features import FeatureConfig, ItemSide, PopularityTable, UserSide
from models.memory import MemorySpec, user_feature_names
from models.ranking.arrange import ArrangeConfig
from models.ranking.calibration import Platt
from models.ranking.ranker import MemoryRanker, RankerConfig
from models.retrieval.retrieve import Candidates, Retriever
from models.retrieval.sources import CandidateConfig
from models.retrieval.towers import RetrieverConfig, TwoTower


class ModelConfig(Config):
    """All that decides what weights mean. Weights are refused under another digest."""

    heads: tuple[str, ...]
    """Outcomes along the funnel, a head of the ranker each; bit h of a label is head h."""
    target: str
    """The outcome that retrieval looks for and that a slate is ordered by."""
    catalogue: CatalogueConfig = CatalogueConfig()
    memory: MemorySpec = MemorySpec()
    features: FeatureConfig = FeatureConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    ranker: RankerConfig = RankerConfig()


class ServingConfig(Config):
    """How the networks are used; free to change under the same weights."""

    candidates: CandidateConfig = CandidateConfig()
    arrange: ArrangeConfig = ArrangeConfig()


def build(catalogue: Catalogue, config: ModelConfig) -> tuple[TwoTower, MemoryRanker]:
    """Both networks with fresh weights, drawn from torch's global generator."""
    num_long = len(user_feature_names(config.memory))
    items = ItemSide(catalogue, config.features)
    towers = TwoTower(items, config.features, config.retriever, num_long=num_long)
    ranker = MemoryRanker(
        items,
        config.features,
        config.ranker,
        num_long=num_long,
        num_heads=len(config.heads),
    )
    return towers, ranker


class Recommender:
    """A retriever and a calibrated ranker over one catalogue."""

    def __init__(
        self,
        *,
        retriever: Retriever,
        ranker: MemoryRanker,
        calibration: Sequence[Platt],
        heads: tuple[str, ...],
        target: str,
    ) -> None:
        self.retriever, self.ranker = retriever, ranker.eval()
        self.heads, self.target = heads, target
        self.catalogue = retriever.catalogue
        self.calibration = tuple(calibration)

    @property
    def popularity(self) -> PopularityTable:
        """What the items remember."""
        return self.retriever.popularity

    @torch.no_grad()
    def logits(self, user: UserSide, found: Candidates) -> Tensor:
        """`(B, C, O)` before calibration."""
        popularity = self.popularity.read(user.now_days, found.places)
        device = next(self.ranker.parameters()).device
        given = (found.places, popularity, found.affinity)
        scores: Tensor = self.ranker(user.to(device), *(tensor.to(device) for tensor in given))
        scores = scores.cpu()
        # Networks are trained without what follows what: its worth is known by validation.
        scores[..., self.heads.index(self.target)] += self.ranker.follow.cpu() * found.followed
        return scores

    def probabilities(self, user: UserSide, found: Candidates) -> Tensor:
        """`(B, C, O)` calibrated."""
        logits = self.logits(user, found)
        heads = [
            torch.sigmoid(platt.scale * logits[..., head] + platt.bias)
            for head, platt in enumerate(self.calibration)
        ]
        return torch.stack(heads, -1)
