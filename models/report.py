"""What an evaluation finds, as rows of tables: methods beside one another, with intervals."""

from __future__ import annotations

from pydantic import Field

from models.config import Config


class EvaluateConfig(Config):
    """How sure to be."""

    num_samples: int = Field(1000, gt=0)
    """Bootstrap samples of users."""
    seed: int = 1
    item_to_item_half_life: str = "30d"
