"""The events of one or several calls, encoded before any lock is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.events import ACTIONS, STATE, Interactions, Interests
from models.events import encode as to_interactions
from models.memory.facts import Fact, facts_of
from models.stores.rows import to_bytes

_STATE = ACTIONS[STATE].code


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
        bodies = to_bytes(table)  # first: it tells a wrong table plainly
        interactions = to_interactions(table, interests)
        said = np.flatnonzero(interactions["action"] == _STATE).tolist()
        return Batch(
            users=table["user_id"].to_pylist(),
            ts=interactions["ts"].tolist(),
            events=interactions["event"].tolist(),
            interactions=interactions,
            bodies=bodies,
            facts=dict(zip(said, facts_of(table), strict=True)) if said else {},
        )

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """One after the other."""
        if len(batches) == 1:
            return batches[0]
        begins = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
        return Batch(
            users=[user for batch in batches for user in batch.users],
            ts=[ts for batch in batches for ts in batch.ts],
            events=[event for batch in batches for event in batch.events],
            interactions=np.concatenate([batch.interactions for batch in batches]),
            bodies=[body for batch in batches for body in batch.bodies],
            facts={
                begin + row: fact
                for begin, batch in zip(begins, batches, strict=False)
                for row, fact in batch.facts.items()
            },
        )

    def __len__(self) -> int:
        return len(self.users)

    def by_user(self) -> dict[str, list[int]]:
        """The rows of each user, in the order given."""
        places: dict[str, list[int]] = {}
        for row, user_id in enumerate(self.users):
            places.setdefault(user_id, []).append(row)
        return places
