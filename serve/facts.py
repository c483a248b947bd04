"""Facts: what a person says of themselves, slot by slot, and what was said before.

A fact is an event like any other (action `state`): durable, counted once, exported and forgotten
with the rest.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import pyarrow as pa

from models.events import MAX_FACT_BYTES, SCHEMA, STATE, validate
from models.memory import Fact, State
from models.memory.facts import as_of, history
from models.stores import Clock, MemoryStore, Outcome
from serve.problems import Problem
from serve.schemas import FactRequest, rfc3339

_NULLABLE = pa.schema([field.with_nullable(True) for field in SCHEMA])


class Facts:
    """`/v1/users/{user_id}/facts/{slot}` on one store."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def say(self, user_id: str, slot: str, request: FactRequest) -> dict[str, Any]:
        """Keeps a value, and replies with what holds now.

        Raises:
            Problem: when the value is too long, or the time that it is good for is over.
        """
        value = json.dumps(request.value, ensure_ascii=False, separators=(",", ":"))
        if len(value.encode()) > MAX_FACT_BYTES:
            raise Problem(400, "invalid-request", f"#/value: over {MAX_FACT_BYTES} bytes as JSON")
        return self._keep(
            user_id,
            slot,
            {"fact": value, "fact_source": request.source, "valid_until": request.valid_until},
        )

    def withdraw(self, user_id: str, slot: str) -> dict[str, Any]:
        """Leaves the slot without a value, whatever was inferred of it; replies as `say`."""
        return self._keep(user_id, slot, {"fact_source": "explicit"})

    def read(self, user_id: str, slot: str) -> dict[str, Any]:
        """What holds now, and all that is kept of the slot; see `serve.schemas.FactReply`."""
        (state,) = self._store.get_many([user_id])
        holding = [fact for fact in holds(state, self._clock()) if fact["slot"] == slot]
        return {
            "slot": slot,
            "holds": holding[0] if holding else None,
            "history": [told(fact) for fact in reversed(history(state.facts, slot))],
        }

    def _keep(self, user_id: str, slot: str, said: dict[str, Any]) -> dict[str, Any]:
        now = self._clock()
        event = {
            "event_id": f"fact-{uuid.uuid4().hex}",
            "user_id": user_id,
            "action": STATE,
            "ts": now,
            "arrived_at": now,
            "slot": slot,
            **said,
        }
        checked = validate(pa.Table.from_pylist([event], schema=_NULLABLE), now_ms=now)
        if len(checked.rejected):
            reason = checked.rejected["reason"][0].as_py()
            raise Problem(400, "invalid-request", reason)
        (outcome,) = self._store.apply_many(checked.good)
        if outcome is not Outcome.ACCEPTED:
            detail = "the user's memory was erased at this very moment; say it again"
            raise Problem(409, "erased", detail)
        return self.read(user_id, slot)


def holds(state: State, now_ms: int) -> list[dict[str, Any]]:
    """The facts that hold now, by slot."""
    found = as_of(state.facts, event_time_ms=now_ms, known_at_ms=now_ms)
    return [told(fact) for fact in found.values()]


def told(fact: Fact) -> dict[str, Any]:
    """One fact; see `serve.schemas.FactSaid`."""
    return {
        "slot": fact.slot,
        "value": None if fact.value is None else json.loads(fact.value),
        "withdrawn": fact.value is None,
        "source": fact.source.name.lower(),
        "said_at": rfc3339(fact.said_ms),
        "known_at": rfc3339(fact.known_ms),
        "valid_until": None if fact.until_ms is None else rfc3339(fact.until_ms),
    }
