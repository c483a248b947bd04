"""The events of a call, encoded before any lock is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.events import Interactions, Interests
from models.events import encode as to_interactions
from models.memory.facts import Fact, facts_of
from models.memory.ring import is_said
from models.stores.rows import checked, to_bytes


@dataclass(frozen=True)
class Batch:
    """N events, column by column."""

    users: list[str]
    ts: list[int]
    events: list[int]
    interactions: Interactions
    bodies: list[bytes]
    """The rows as JSON."""
    facts: dict[int, Fact]
    """Row to fact, of the rows that say one."""

    @staticmethod
    def of(table: pa.Table, interests: Interests | None) -> Batch:
        """From good rows in `SCHEMA`; ValueError when the columns are others."""
        table = checked(table).combine_chunks()
        interactions = to_interactions(table, interests)
        said = np.flatnonzero(is_said(interactions)).tolist()
        return Batch(
            users=table["user_id"].to_pylist(),
            ts=interactions["ts"].tolist(),
            events=interactions["event"].tolist(),
            interactions=interactions,
            bodies=to_bytes(table),
            facts=dict(zip(said, facts_of(table), strict=True)) if said else {},
        )

    def __len__(self) -> int:
        return len(self.users)

    def by_user(self) -> dict[str, list[int]]:
        """The rows of each user, in the order given."""
        places: dict[str, list[int]] = {}
        for row, user_id in enumerate(self.users):
            places.setdefault(user_id, []).append(row)
        return places
