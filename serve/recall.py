"""Recalls what is remembered of a person, for the person: the memory endpoint's reply."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from models.catalogue import Catalogue
from models.config import format_duration
from models.events import ACTION_NAMES, Interactions
from models.memory import MemorySpec
from models.memory.explain import explain
from models.stores import Receipt
from serve.facts import holds
from serve.schemas import rfc3339
from serve.stages.explain import Explain
from serve.stages.memory import Remembered

_CONTRIBUTIONS = 200
_INTERESTS = 10
_ITEMS = 20


class Recall:
    """`GET /v1/users/{user_id}/memory`."""

    def __init__(self, catalogue: Catalogue, memory: MemorySpec) -> None:
        self._catalogue, self._memory = catalogue, memory
        self._explain = Explain(catalogue, memory.state)
        self._values = _values_of_buckets(catalogue)

    def __call__(self, user_id: str, memory: Remembered) -> dict[str, Any]:
        """The reply; see `serve.schemas.MemoryReply`."""
        seen = memory.view
        halves = [format_duration(half_life) for half_life in self._memory.view.half_lives]
        return {
            "user_id": user_id,
            "as_of": rfc3339(seen.now_ms),
            "known": memory.known,
            "num_events": seen.num_events,
            "num_sessions": seen.num_sessions,
            "recency_days": _days(seen.recency_days),
            "tenure_days": _days(seen.tenure_days),
            "gap_days": _days(seen.gap_days),
            "drift": {
                "cosine": round(seen.drift_cosine, 4),
                "jensen_shannon": round(seen.drift_jensen_shannon, 4),
            },
            "rhythm": {
                name: round(float(getattr(seen, name)), 4)
                for name in ("burstiness", "overdue", "dormancy", "tempering")
            },
            "rates": {
                rate.name: round(share, 4)
                for rate, share in zip(self._memory.view.rates, seen.rates.tolist(), strict=True)
            },
            "intensity": round(float(seen.intensity), 4),
            "facts": holds(memory.state, seen.now_ms),
            "counts": {
                action: dict(zip(halves, np.round(row, 4).tolist(), strict=True))
                for action, row in zip(self._memory.view.actions, seen.counts, strict=True)
            },
            "interests": self._interests(memory),
            "items": self._items(memory),
            "interactions": self._interactions(memory),
        }

    def explain(self, memory: Remembered, feature: str, history: Interactions) -> dict[str, Any]:
        """The events behind one feature; see `serve.schemas.ExplanationReply`.

        Args:
            history: all events of the user, as the store has them.

        Raises:
            ValueError: when the feature cannot be explained, naming what can.
        """
        now, spec = memory.view.now_ms, self._memory
        found = explain(memory.state, feature=feature, now_ms=now, spec=spec, history=history)
        told = found.contributions[:_CONTRIBUTIONS]
        places = self._catalogue.places(np.array([one.item for one in told], np.uint64))
        return {
            "feature": feature,
            "as_of": rfc3339(now),
            "value": found.value if math.isfinite(found.value) else None,
            "total": found.total if math.isfinite(found.total) else None,
            "contributions": [
                {
                    "item_id": self._catalogue.item_ids[place - 1] if place else None,
                    "action": one.action,
                    "interests": self._values.get(one.interest, []),
                    "from": rfc3339(one.start_ms),
                    "until": rfc3339(one.end_ms),
                    "count": one.count,
                    "share": one.share,
                }
                for one, place in zip(told, places.tolist(), strict=True)
            ],
            "rest": max(1.0 - math.fsum(one.share for one in told), 0.0) if told else 0.0,
        }

    def _interests(self, memory: Remembered) -> list[dict[str, Any]]:
        fast, slow = memory.view.fast, memory.view.slow
        strongest = np.argsort(-(fast + slow), kind="stable")[:_INTERESTS]
        return [
            {
                "values": self._values.get(bucket, []),
                "fast": round(float(fast[bucket]), 4),
                "slow": round(float(slow[bucket]), 4),
            }
            for bucket in strongest.tolist()
            if fast[bucket] + slow[bucket] > 0
        ]

    def _items(self, memory: Remembered) -> list[dict[str, Any]]:
        """The items that were met last, with what was done."""
        reasons = self._explain(memory)
        return [
            {
                "item_id": self._catalogue.item_ids[place - 1],
                "text": self._catalogue.texts[place],
                "reasons": list(reasons.history(place)),
            }
            for place in list(reasons.deeds)[:_ITEMS]
        ]

    def _interactions(self, memory: Remembered) -> list[dict[str, Any]]:
        ring, ranks = memory.state.ring, memory.view.session_rank
        places = self._catalogue.places(ring["item"]).tolist()
        columns = ring["ts"].tolist(), ring["action"].tolist(), places, ranks.tolist()
        told = [
            {
                "ts": rfc3339(ts),
                "action": ACTION_NAMES[action],
                "item_id": self._catalogue.item_ids[place - 1] if place else None,
                "text": self._catalogue.texts[place] if place else None,
                "session": rank,
            }
            for ts, action, place, rank in zip(*columns, strict=True)
        ]
        return told[::-1]


def receipt(removed: Receipt) -> dict[str, Any]:
    """The reply to an erasure; see `serve.schemas.ErasureReceipt`."""
    return {
        "num_events": removed.num_events,
        "num_marks": removed.num_marks,
        "num_bytes": removed.num_bytes,
        "erased_at": rfc3339(removed.erased_at_ms),
    }


def _days(days: float) -> float | None:
    return round(days, 4) if math.isfinite(days) else None


def _values_of_buckets(catalogue: Catalogue) -> dict[int, list[str]]:
    """The values of the first category field behind each interest bucket; 0 is unknown."""
    if not catalogue.config.categories:
        return {}
    names = catalogue.category_values[catalogue.config.categories[0]]
    buckets = catalogue.interests(catalogue.keys)
    found = defaultdict(list)
    pairs = np.unique(np.stack([buckets, catalogue.categories[:, 0]], axis=1), axis=0)
    for bucket, code in pairs.tolist():
        if bucket:
            found[bucket].append(names[code])
    return dict(found)


def names_of_interests(catalogue: Catalogue, num_interests: int) -> list[str]:
    """A name for each bucket: the values that share it."""
    values = _values_of_buckets(catalogue)
    return [", ".join(values.get(bucket, ["unknown"])) for bucket in range(num_interests)]
