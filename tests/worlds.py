"""A small world and a release of it: 30 items, 20 users, networks with random weights.

Nothing is trained, so what a recommender prefers here means nothing; that it is computed, stored,
served and explained rightly can be checked all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from models import release as releases
from models.catalogue import Catalogue, CatalogueConfig
from models.config import DAY_MS
from models.events import POLARITY, SCHEMA, Interactions, encode, validate
from models.features import FeatureConfig, PopularityTable
from models.memory import Histories, MemorySpec, Popularity, StateSpec, ViewSpec, fold
from models.memory.negative import NegativeSpec, Refusal
from models.model import ModelConfig, Recommender, ServingConfig, build
from models.ranking.calibration import Platt
from models.ranking.ranker import RankerConfig
from models.retrieval.retrieve import Retriever
from models.retrieval.sources import CandidateConfig
from models.retrieval.towers import RetrieverConfig
from models.stores import SnapshotRow, write_snapshot

BEGIN = 1_306_886_400_000  # 2011-06-01T00:00:00Z
KINDS = ("candle", "clock", "mug", "lamp", "basket")
COLOURS = ("red", "blue", "white", "green", "black", "pink")
NUM_USERS = 20
NUM_EVENTS = 12  # of each user

DISMISSAL = Refusal(action="dismiss", pause=14 * DAY_MS, ramp=140 * DAY_MS)
MODEL = ModelConfig(
    heads=("purchase",),
    target="purchase",
    catalogue=CatalogueConfig(categories=("kind",), numbers=("price",), num_interests=16),
    memory=MemorySpec(
        state=StateSpec(ring=16, num_interests=16),
        view=ViewSpec(negative=NegativeSpec(refusals=(DISMISSAL,))),
    ),
    features=FeatureConfig(history=8, context=("country",), text_buckets=256, text_grams=16),
    retriever=RetrieverConfig(width=8, heads=2),
    ranker=RankerConfig(width=8, num_cross=1, cross_rank=4, hidden=8),
)
SERVING = ServingConfig(
    candidates=CandidateConfig(memory=5, vector=12, trending=5, fresh=3, lexical=12, total=25)
)


@dataclass(frozen=True)
class World:
    """Items and events; `watermark_ms` is the time of the newest event."""

    seed: int = 1

    @cached_property
    def catalogue(self) -> Catalogue:
        """Thirty items: every kind in every colour, one more a day."""
        names = [(kind, colour) for colour in COLOURS for kind in KINDS]
        table = pa.table(
            {
                "item_id": [f"{colour}-{kind}" for kind, colour in names],
                "text": [f"{colour} {kind} of the old town" for kind, colour in names],
                "kind": [kind for kind, _ in names],
                "price": [1.0 + number for number in range(len(names))],
                "first_seen": pa.array(
                    [BEGIN + number * DAY_MS for number in range(len(names))],
                    pa.timestamp("ms", tz="UTC"),
                ),
            }
        )
        return Catalogue(table, MODEL.catalogue)

    @cached_property
    def events(self) -> pa.Table:
        """`user-00` to `user-19`, three sessions each between day 40 and day 100."""
        rng = np.random.default_rng(self.seed)
        rows = [
            {
                "event_id": f"e{number}",
                "user_id": f"user-{user:02}",
                "ts": BEGIN + (40 + user + 10 * (number // 4)) * DAY_MS + number * 60_000,
                "item_id": self.catalogue.item_ids[int(rng.integers(len(self.catalogue) - 1))],
                "action": str(rng.choice(["view", "purchase", "purchase", "cancel"])),
                "session_id": f"s{user}-{number // 4}",
                "value": 1.0,
            }
            for user in range(NUM_USERS)
            for number in range(NUM_EVENTS)
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        return validate(table, now_ms=BEGIN + 1000 * DAY_MS).good

    @cached_property
    def interactions(self) -> Interactions:
        """The events as memory sees them."""
        return encode(self.events, self.catalogue.interests)

    @property
    def watermark_ms(self) -> int:
        """The newest event's time."""
        return int(self.interactions["ts"].max())

    def of_user(self, user_id: str) -> Interactions:
        """One user's interactions, in time order."""
        users = np.asarray(self.events["user_id"].to_pylist())
        own = self.interactions[users == user_id]
        return own[np.lexsort((own["event"], own["ts"]))]

    @cached_property
    def popularity(self) -> Popularity:
        """What the items remember."""
        places = self.catalogue.places(self.interactions["item"])
        spoken = POLARITY[self.interactions["action"]] > 0
        ts = self.interactions["ts"][spoken]
        return Popularity.fold(ts, places[spoken], len(self.catalogue))

    def recommender(self) -> Recommender:
        """With weights drawn under the seed."""
        torch.manual_seed(self.seed)
        towers, ranker = build(self.catalogue, MODEL)
        table = PopularityTable(self.popularity, MODEL.features.popularity_half_lives)
        retriever = Retriever(
            towers,
            catalogue=self.catalogue,
            popularity=table,
            features=MODEL.features,
            config=SERVING.candidates,
        )
        return Recommender(
            retriever=retriever,
            ranker=ranker.eval(),
            calibration=[Platt(1.0, 0.0) for _ in MODEL.heads],
            heads=MODEL.heads,
            target=MODEL.target,
        )

    @cached_property
    def histories(self) -> Histories:
        """All of it as a batch job holds it; what happened had arrived at once."""
        users = np.asarray(self.events["user_id"].to_pylist())
        order = np.lexsort((self.interactions["event"], self.interactions["ts"], users))
        names, lengths = np.unique(users, return_counts=True)
        return Histories(
            users=pa.array(names.tolist()),
            offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
            interactions=self.interactions[order],
            arrived=self.interactions["ts"][order].astype(np.int64),
        )

    def write_snapshot(self, path: Path) -> None:
        """Every user's memory, as a batch build would write it."""
        spec = MODEL.memory.state
        users = sorted(set(self.events["user_id"].to_pylist()))
        rows = [
            SnapshotRow(user, fold(events, spec), events)
            for user, events in ((user, self.of_user(user)) for user in users)
        ]
        write_snapshot(path, rows, spec=spec, marks_from=self.watermark_ms + 1)

    def release(self, folder: Path) -> Path:
        """Writes a release."""
        releases.save(
            folder,
            name="tiny",
            recommender=self.recommender(),
            model=MODEL,
            serving=SERVING,
            watermark_ms=self.watermark_ms,
            metrics={"test/recall@10": 0.5},
            write_snapshot=self.write_snapshot,
        )
        return folder
