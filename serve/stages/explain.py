"""Explain: why an item is shown, from the ring and from the sources that brought it.

What a reason says of the user's past is counted from the ring, event by event: never estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Catalogue
from models.config import DAY_MS
from models.events import ACTION_NAMES, POLARITY
from models.memory import StateSpec
from models.retrieval.sources import SOURCES
from models.text import words
from serve.stages.memory import Remembered

DEEDS = {
    "view": "viewed",
    "click": "clicked",
    "save": "saved",
    "cart": "put in the cart",
    "apply": "applied to",
    "invite": "invited",
    "accept": "accepted",
    "hire": "hired",
    "purchase": "bought",
    "like": "liked",
    "dismiss": "dismissed",
    "decline": "declined",
    "cancel": "cancelled",
    "dislike": "disliked",
}
"""Actions for or against an item, as one tells a person."""


class Explain:
    """The stage. Called with a memory it gives the reasons of that request's items."""

    def __init__(self, catalogue: Catalogue, spec: StateSpec) -> None:
        self.catalogue, self.spec = catalogue, spec

    def __call__(self, memory: Remembered, query: str | None = None) -> Reasons:
        """Reads the ring once for all items of a request."""
        return Reasons(self, memory, query)

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """`(I,)` code of each place's first category, 0 for none."""
        categories = self.catalogue.categories
        return categories[:, 0] if categories.shape[1] else np.zeros(len(categories), np.int64)

    @cached_property
    def kind_names(self) -> list[str]:
        """The first category's values, by code."""
        return next(iter(self.catalogue.category_values.values()), [""])


class Reasons:
    """The reasons of one request."""

    def __init__(self, explain: Explain, memory: Remembered, query: str | None) -> None:
        self._explain, self._now_ms, self._query = explain, memory.view.now_ms, query
        self._words = list(dict.fromkeys(words(query or "")))
        ring = memory.state.ring
        places = explain.catalogue.places(ring["item"])
        # The ring keeps the newest events only: when it is full there may have been more.
        self._least = "at least " if len(ring) == explain.spec.ring else ""
        self.deeds: dict[int, dict[int, list[int]]] = {}
        """Place to action to times, the newest first; actions by their newest time, too."""
        told = (places > 0) & (POLARITY[ring["action"]] != 0)
        rows = (places[told], ring["action"][told], ring["ts"][told])
        for place, action, ts in zip(*(row[::-1].tolist() for row in rows), strict=True):
            self.deeds.setdefault(place, {}).setdefault(action, []).append(ts)
        liked = np.unique(places[told & (POLARITY[ring["action"]] > 0)])
        self._liked = set(liked.tolist())
        self._num_liked = np.bincount(explain.kinds[liked], minlength=len(explain.kind_names))

    def __call__(self, place: int, provenance: int) -> list[dict[str, str]]:
        """Reasons `{kind, text}` for one item, the user's own past first."""
        found = [("history", text) for text in self.history(place)]
        found += [("category", text) for text in self._category(place)]
        for bit, source in enumerate(SOURCES):
            if provenance >> bit & 1 and (text := self._source(source, place)):
                found.append((source, text))
        return [{"kind": kind, "text": text} for kind, text in found]

    def history(self, place: int) -> Iterator[str]:
        """What the user did with an item, the newest deed first."""
        for action, times in self.deeds.get(place, {}).items():
            deed, when = DEEDS[ACTION_NAMES[action]], ago(self._now_ms - times[0])
            if len(times) == 1:
                yield f"you {deed} this {when}"
            else:
                yield f"you {deed} this {self._least}{len(times)} times, last {when}"

    def _category(self, place: int) -> Iterator[str]:
        """How many other items of its first category the user was interested in."""
        kind = int(self._explain.kinds[place])
        num_others = int(self._num_liked[kind]) - (place in self._liked)
        if kind and num_others:
            name = self._explain.kind_names[kind]
            yield f"you chose {num_others} other item{'s'[: num_others > 1]} in {name}"

    def _source(self, source: str, place: int) -> str:
        """What a source's choice means; empty where it has nothing to add."""
        if source == "lexical":
            own = set(words(self._explain.catalogue.texts[place]))
            return "has your words: " + ", ".join(w for w in self._words if w in own)
        if source == "vector" and self._query is not None:
            return "close in meaning to your words"
        if source == "vector":
            return "close to what you did" if self._liked else ""
        # The source `memory` is told by the history.
        return {"trending": "popular of late", "fresh": "new here"}.get(source, "")


def ago(ms: int) -> str:
    """A length of time as people say it, in whole units."""
    for unit, size in (("day", DAY_MS), ("hour", 3_600_000), ("minute", 60_000)):
        if ms >= size:
            number = ms // size
            return f"{number} {unit}{'s'[: number > 1]} ago"
    return "just now"
