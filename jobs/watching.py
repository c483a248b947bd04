"""A training that is watched: after each validated epoch it hears whether to go on.

`tune` prunes by it. All workers of a training come to the same decision at the same place, so none
waits for another that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.collective import broadcast_from_rank_zero

from models.examples import Ints
from models.fitting import Feed

NAMESPACE = "ebb-tune"


class StopTrainingError(Exception):
    """This training ends here, as a whole one would: with its checkpoint, without a fault."""


@dataclass(frozen=True)
class Watch:
    """Who is asked about a training, and what it is told as."""

    desk: str
    """Name of the `jobs.tuning.desk.Desk` that is asked."""
    trial: int
    num_stages: int
    """Stages to train at all."""
    group: str
    """The W&B group of its run."""

    def feed(self, feed: Feed) -> Feed:
        """The same feed, but the training ends where a stage begins that is not wanted."""

        def watched(stage: int, epoch: int, batch: int) -> Iterator[Ints]:
            if stage >= self.num_stages:
                raise StopTrainingError
            return feed(stage, epoch, batch)

        return watched

    def check(self, figures: dict[str, Any], *, first: bool) -> None:
        """Called by all workers after an epoch; raises `StopTrainingError` in all or in none.

        Args:
            first: whether this is the worker that asks; the others hear of it.
        """
        if not broadcast_from_rank_zero(self._ask(figures) if first else None):
            raise StopTrainingError

    def _ask(self, figures: dict[str, Any]) -> bool:
        desk = ray.get_actor(self.desk, namespace=NAMESPACE)
        told = {name: figures[name] for name in ("stage", "epoch", "validate_ndcg@10")}
        answer: bool = ray.get(desk.report.remote(self.trial, told))
        return answer
