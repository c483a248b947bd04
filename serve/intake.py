"""Takes events in: each is judged by itself, the good ones are stored in one transaction.

Safe to send again: an event counts once.
"""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
from pydantic import ValidationError

from models.events import ACTIONS, SCHEMA, validate
from models.stores import Clock, MemoryStore, Outcome
from serve.problems import Problem, said
from serve.schemas import MAX_EVENTS, Event

_NULLABLE = pa.schema([field.with_nullable(True) for field in SCHEMA])
_ERASED = "the user's memory was erased, and this event is not newer"
_UNKNOWN_ACTION = f"unknown action: one of {', '.join(ACTIONS)}"


class Intake:
    """`POST /v1/events` on one store."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def __call__(self, body: bytes) -> dict[str, Any]:
        """The reply to a request body.

        Raises:
            Problem: when the body as a whole is wrong.
            StoreFullError: when the store has no room; nothing was kept.
        """
        given = _events(body)
        now = self._clock()
        problems: dict[int, str] = {}
        rows, places = [], []
        for place, raw in enumerate(given):
            try:
                event = Event.model_validate(raw)
            except ValidationError as error:
                problems[place] = _told(error)
                continue
            ts = now if event.ts is None else event.ts
            # A clock may run a little ahead of ours; nothing arrives before it happened.
            rows.append({**event.model_dump(), "ts": ts, "arrived_at": max(now, ts)})
            places.append(place)
        outcomes = self._store_good(rows, places, problems, now)
        return {
            "accepted": outcomes.count(Outcome.ACCEPTED),
            "duplicates": outcomes.count(Outcome.DUPLICATE),
            "late": outcomes.count(Outcome.LATE),
            "rejected": [
                {"index": place, "event_id": _event_id(given[place]), "problem": problems[place]}
                for place in sorted(problems)
            ],
        }

    def _store_good(
        self, rows: list[dict[str, Any]], places: list[int], problems: dict[int, str], now: int
    ) -> list[Outcome]:
        """Stores the good rows; the others join `problems`, by their places in the request."""
        if not rows:
            return []
        checked = validate(pa.Table.from_pylist(rows, schema=_NULLABLE), now_ms=now)
        wrong = checked.rejected_rows.tolist()
        for row, reason in zip(wrong, checked.rejected["reason"].to_pylist(), strict=True):
            problems[places[row]] = _UNKNOWN_ACTION if reason == "unknown action" else reason
        outcomes = self._store.apply_many(checked.good)
        bad = set(wrong)
        good = (place for row, place in enumerate(places) if row not in bad)
        for place, outcome in zip(good, outcomes, strict=True):
            if outcome is Outcome.ERASED:
                problems[place] = _ERASED
        return outcomes


def _events(body: bytes) -> list[Any]:
    """The list in a body, its members unseen."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed-json", f"the body is no JSON: {error}") from None
    events = given.get("events") if isinstance(given, dict) else None
    if not isinstance(events, list) or len(given) > 1:
        raise Problem(400, "invalid-request", 'the body is an object {"events": [...]}, no more')
    if not 0 < len(events) <= MAX_EVENTS:
        detail = f"#/events: {len(events)} events; between 1 and {MAX_EVENTS} can be sent at once"
        raise Problem(400, "invalid-request", detail)
    return events


def _event_id(raw: object) -> str | None:
    found = raw.get("event_id") if isinstance(raw, dict) else None
    return found if isinstance(found, str) else None


def _told(error: ValidationError) -> str:
    """All that is wrong with one event."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    named = ((".".join(map(str, e["loc"])), said(e)) for e in found)
    return "; ".join(f"{where}: {what}" if where else what for where, what in named)
