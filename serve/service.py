"""The service of one release: everything that the endpoints call, made once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from models import release as releases
from models.release import Release
from models.stores import export
from models.text import words
from serve.config import ServeConfig
from serve.facts import Facts
from serve.intake import Intake
from serve.opening import Opened, open_store
from serve.pipeline import Pipeline
from serve.recall import Recall, names_of_interests
from serve.schemas import RecommendRequest, SearchRequest

log = logging.getLogger("ebb.serve")


@dataclass
class Service:
    """A loaded release over an open store."""

    config: ServeConfig
    release: Release
    opened: Opened
    pipeline: Pipeline
    intake: Intake
    facts: Facts
    recall: Recall
    ready: bool = False
    """Whether a request has gone through all stages."""

    @staticmethod
    def open(config: ServeConfig) -> Service:
        """Loads a release and opens its store; call `warm_up` before the first request.

        Raises:
            ValueError: when either is missing, damaged or does not fit the other.
        """
        release = releases.load(config.release)
        opened = open_store(config, release)
        store, clock = opened.store, opened.clock
        return Service(
            config=config,
            release=release,
            opened=opened,
            pipeline=Pipeline(
                release, store=store, clock=clock, config=config, secret=opened.secret
            ),
            intake=Intake(store, clock),
            facts=Facts(store, clock),
            recall=Recall(release.recommender.catalogue, release.model.memory),
        )

    def export(self, user_id: str) -> dict[str, Any]:
        """All that is held about a user; see `models.stores.export`."""
        catalogue, state = self.release.recommender.catalogue, self.release.model.memory.state
        return export(
            self.opened.store,
            user_id,
            spec=state,
            items=dict(zip(catalogue.keys[1:].tolist(), catalogue.item_ids, strict=True)),
            interests=names_of_interests(catalogue, state.num_interests),
        )

    def warm_up(self) -> None:
        """Sends a request through every stage, so that the first client does not wait."""
        catalogue = self.release.recommender.catalogue
        query = next((word for text in catalogue.texts for word in words(text)), "warm")
        self.pipeline.recommend(RecommendRequest(user_id="warm-up"))
        self.pipeline.search(SearchRequest(query=query, user_id="warm-up"))
        self.ready = True
        log.info("release %s is ready", self.pipeline.release_id)

    def close(self) -> None:
        """Lets go of the store and of the threads."""
        self.ready = False
        self.pipeline.close()
        self.opened.store.close()
