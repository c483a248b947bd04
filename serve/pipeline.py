"""One request from its schema to its reply: memory, retrieve, rank, arrange, each timed.

Plain Python without Ray or HTTP; safe to call from many threads at once.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from models.memory import EMPTY
from models.release import Release
from models.stores import Clock, MemoryStore
from serve.budgets import Budget, OverBudgetError
from serve.config import ServeConfig
from serve.problems import Problem
from serve.schemas import Range, RecommendRequest, SearchRequest, SlateRequest
from serve.stages.arrange import Arrange, Slate
from serve.stages.explain import Explain
from serve.stages.memory import MemoryUnavailableError, ReadMemory, Remembered
from serve.stages.rank import Rank
from serve.stages.retrieve import Retrieve
from serve.tokens import PageTokens

log = logging.getLogger("ebb.serve")
T = TypeVar("T")


class Run:
    """One request under way: how long its stages took, which of them were skipped and why."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self.degraded: list[dict[str, str]] = []
        self._begin = time.perf_counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds what the block takes to the stage."""
        begin = time.perf_counter()
        yield
        self._add(stage, begin)

    def within(
        self, stage: str, budget: Budget, work: Callable[[], T], tolerated: type[Exception]
    ) -> T | None:
        """What `work` returns; None, and the stage is degraded, when it is late or fails.

        Args:
            tolerated: what skips the stage; other errors are faults of ours and go on up.
        """
        begin = time.perf_counter()
        try:
            return budget.run(work)
        except (OverBudgetError, tolerated) as error:
            log.warning("%s skipped: %s", stage, error)
            self.degraded.append({"stage": stage, "reason": str(error)})
            return None
        finally:
            self._add(stage, begin)

    def close(self) -> None:
        """Adds the total."""
        self._add("total", self._begin)

    def _add(self, stage: str, begin: float) -> None:
        spent = (time.perf_counter() - begin) * 1000
        self.timings_ms[stage] = round(self.timings_ms.get(stage, 0.0) + spent, 3)


class Pipeline:
    """All stages of one release over one store."""

    def __init__(
        self,
        release: Release,
        *,
        store: MemoryStore,
        clock: Clock,
        config: ServeConfig,
        secret: bytes,
    ) -> None:
        recommender, model = release.recommender, release.model
        self._catalogue, self._clock = recommender.catalogue, clock
        self._context = model.features.context
        self.release_id = release.manifest.release_id
        self.tokens = PageTokens(secret, self.release_id)
        self.read = ReadMemory(
            store, catalogue=self._catalogue, features=model.features, memory=model.memory
        )
        self.retrieve = Retrieve(recommender.retriever)
        self.rank = Rank(recommender)
        self.arrange = Arrange(recommender, release.serving.arrange)
        self.explain = Explain(self._catalogue, model.memory.state)
        self._memory_budget = Budget("memory", config.budgets.memory, config.threads)
        self._rank_budget = Budget("rank", config.budgets.rank, config.threads)

    def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """The reply to `POST /v1/recommend`.

        Raises:
            Problem: when a filter, a context field or the page token does not fit the release.
        """
        return self._answer(request, request.user_id, query=None)

    def search(self, request: SearchRequest) -> dict[str, Any]:
        """The reply to `POST /v1/search`. Raises as `recommend`."""
        return self._answer(request, request.user_id, query=request.query)

    def close(self) -> None:
        """Ends the threads."""
        self._memory_budget.close()
        self._rank_budget.close()

    def _answer(
        self, request: SlateRequest, user_id: str | None, *, query: str | None
    ) -> dict[str, Any]:
        run = Run()
        self._check_context(request)
        memory = self._remember(run, request, user_id)
        if request.page_token is None:
            slate = self._slate(run, request, memory, query)
        else:
            slate = self.tokens.open(request.page_token, request)
        with run.timed("arrange"):
            page, rest = slate.cut(request.page_size)
            items = self._items(page, memory, query, explain=request.explain)
            token = self.tokens.seal(rest, request) if len(rest.rows) else None
        run.close()
        return {
            "request_id": uuid.uuid4().hex,
            "items": items,
            "next_page_token": token,
            "experiments": [],
            "release": self.release_id,
            "degraded": run.degraded,
            "timings_ms": run.timings_ms,
        }

    def _remember(self, run: Run, request: SlateRequest, user_id: str | None) -> Remembered:
        """The user's memory; an empty one where it is not wanted or cannot be had."""
        now = self._clock()

        def read(user_id: str | None) -> Remembered:
            return self.read(
                self.read.state(user_id) if user_id else EMPTY,
                now_ms=now,
                session_id=request.session_id,
                context=request.context,
            )

        memory = None
        if user_id and request.personalize:
            memory = run.within(
                "memory", self._memory_budget, lambda: read(user_id), MemoryUnavailableError
            )
        return read(None) if memory is None else memory

    def _slate(
        self, run: Run, request: SlateRequest, memory: Remembered, query: str | None
    ) -> Slate:
        with run.timed("retrieve"):
            candidates = self.retrieve(memory.user, query=query, allowed=self._allowed(request))
        # torch tells of what it cannot do, out of memory included, by RuntimeErrors.
        probabilities = run.within(
            "rank",
            self._rank_budget,
            lambda: self.rank(memory.user, candidates),
            RuntimeError,
        )
        search = query is not None
        with run.timed("arrange"):
            # Who searches for a thing wants to see it, whatever was done with it before.
            left = None if search else self.read.attraction(memory, candidates.places)
            return self.arrange(candidates, probabilities, search=search, attraction=left)

    def _items(
        self, page: Slate, memory: Remembered, query: str | None, *, explain: bool
    ) -> list[dict[str, Any]]:
        rows = enumerate(page.rows.tolist(), start=page.first_rank)
        reasons = self.explain(memory, query) if explain else None
        return [
            {
                "item_id": self._catalogue.item_ids[place - 1],
                "rank": rank,
                "score": None if math.isnan(score) else float(f"{score:.6g}"),
                "reasons": reasons(place, provenance) if reasons is not None else [],
            }
            for rank, (place, provenance, score) in rows
        ]

    def _allowed(self, request: SlateRequest) -> torch.Tensor | None:
        """`(I,)` the places that filters and exclusions leave; None: all."""
        if not request.filters and not request.exclude_item_ids:
            return None
        filters = request.filters.items()
        try:
            mask = self._catalogue.allowed(
                equal={
                    name: [wanted] if isinstance(wanted, str) else wanted
                    for name, wanted in filters
                    if not isinstance(wanted, Range)
                },
                between={
                    name: (wanted.min, wanted.max)
                    for name, wanted in filters
                    if isinstance(wanted, Range)
                },
            )
        except ValueError as error:
            raise Problem(400, "invalid-filter", str(error)) from None
        mask[[self._catalogue.place_of(item_id) for item_id in request.exclude_item_ids]] = False
        return torch.from_numpy(mask)

    def _check_context(self, request: SlateRequest) -> None:
        unknown = [name for name in request.context if name not in self._context]
        if unknown:
            raise Problem(
                400,
                "invalid-context",
                f"context: {unknown[0]!r} is none of the fields that this release was trained on: "
                f"{', '.join(self._context) or 'it has none'}",
            )
