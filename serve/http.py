"""The HTTP application: endpoints over a `Service`.

Handlers read the body's bytes themselves and answer bytes: FastAPI gives routing and OpenAPI. What
blocks (torch, the store) runs in threads, so health answers while requests are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import orjson
from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware
from starlette.responses import Response

from models.stores import MemoryStore, Receipt, StoreFullError, StoreUnavailableError
from serve import problems, recall, schemas
from serve.auth import ApiKeys
from serve.problems import Problem
from serve.schemas import MAX_BODY_BYTES, rfc3339
from serve.service import Service
from serve.stages.memory import MemoryUnavailableError

B = TypeVar("B", bound=schemas.Body)
_REF = "#/components/schemas/{model}"
_WRITERS = 4
"""Writes that wait at the store's one lock at a time; more wait without a thread."""


def application(service: Service, *, keys: list[str]) -> FastAPI:
    """The ASGI application.

    Args:
        keys: API keys; none: every request is let in.
    """
    app = FastAPI(
        title="Ebb",
        version="1",
        description="Search and recommendations that remember.",
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(ApiKeys, keys=keys)],
        **_without_telemetry(),
    )
    problems.install(app)
    _add_slates(app, service)
    _add_memory(app, service)
    _add_facts(app, service)
    _add_state(app, service)
    _document_bodies(app)
    return app


def _add_slates(app: FastAPI, service: Service) -> None:
    pipeline = service.pipeline
    computing = anyio.CapacityLimiter(service.config.threads)

    @app.post("/v1/recommend", **_takes(schemas.RecommendRequest), **_gives(schemas.Slate))
    async def recommend(request: Request) -> Response:
        """Items for a user, by what is remembered of the user."""
        asked = await _parsed(request, schemas.RecommendRequest)
        return await _reply(lambda: pipeline.recommend(asked), computing)

    @app.post("/v1/search", **_takes(schemas.SearchRequest), **_gives(schemas.Slate))
    async def search(request: Request) -> Response:
        """Items for a query, by their agreement with it and by the user's memory."""
        asked = await _parsed(request, schemas.SearchRequest)
        return await _reply(lambda: pipeline.search(asked), computing)


def _add_memory(app: FastAPI, service: Service) -> None:
    store, clock, read = service.opened.store, service.opened.clock, service.pipeline.read
    writing, reading = anyio.CapacityLimiter(_WRITERS), anyio.CapacityLimiter(_WRITERS)
    path = "/v1/users/{user_id:path}/memory"

    @app.post("/v1/events", **_takes(schemas.EventsRequest), **_gives(schemas.EventsReply))
    async def events(request: Request) -> Response:
        """Takes events in, each by itself: good ones are kept when others are rejected."""
        body = await _body(request)
        return await _reply(lambda: service.intake(body), writing)

    @app.get(path, **_gives(schemas.MemoryReply))
    async def remembered(user_id: str) -> Response:
        """What is remembered of a user, as of now. An unknown user has an empty memory."""
        known = _id(user_id)
        return await _reply(
            lambda: service.recall(known, read(read.state(known), now_ms=clock())), reading
        )

    @app.get(path + "/{feature}", **_gives(schemas.ExplanationReply))
    async def explained(user_id: str, feature: str) -> Response:
        """The events behind one number of a user's memory, with their exact shares in it.

        Such as `num_purchase_30d`, `intensity` or `fast_7`; a wrong name is told the right ones.
        """
        known = _id(user_id)
        return await _reply(lambda: _explained(service, known, feature), reading)

    @app.delete(path, **_gives(schemas.ErasureReceipt))
    async def erase(
        user_id: str, item_id: str | None = None, before: str | None = None
    ) -> Response:
        """Erases what is remembered of a user, for good, and gives a receipt.

        With `item_id` only what was done with that item, with `before` only what happened before
        that time (RFC 3339); otherwise everything.
        """
        known = _id(user_id)
        if item_id is None and before is None:
            return await _reply(lambda: recall.receipt(store.delete(known)), writing)
        what = _part(item_id, before)
        return await _reply(lambda: recall.receipt(_forget(store, known, what)), writing)

    @app.get("/v1/users/{user_id:path}/export", **_gives(dict[str, Any]))
    async def exported(user_id: str) -> Response:
        """All that is held about a user, as a person can read it."""
        known = _id(user_id)
        return await _reply(lambda: service.export(known), reading)


def _add_facts(app: FastAPI, service: Service) -> None:
    facts, limiter = service.facts, anyio.CapacityLimiter(_WRITERS)
    path = "/v1/users/{user_id:path}/facts/{slot}"

    @app.get(path, **_gives(schemas.FactReply))
    async def fact(user_id: str, slot: str) -> Response:
        """What holds of a slot, and all that is kept of it."""
        who, what = _id(user_id), _id(slot, "slot")
        return await _reply(lambda: facts.read(who, what), limiter)

    @app.put(path, **_takes(schemas.FactRequest), **_gives(schemas.FactReply))
    async def say(request: Request, user_id: str, slot: str) -> Response:
        """Says a fact: a preference or a constraint. What the user says beats what was inferred."""
        who, what = _id(user_id), _id(slot, "slot")
        said = await _parsed(request, schemas.FactRequest)
        return await _reply(lambda: facts.say(who, what, said), limiter)

    @app.delete(path, **_gives(schemas.FactReply))
    async def withdraw(user_id: str, slot: str) -> Response:
        """Leaves a slot without a value, also where one was inferred."""
        who, what = _id(user_id), _id(slot, "slot")
        return await _reply(lambda: facts.withdraw(who, what), limiter)


def _add_state(app: FastAPI, service: Service) -> None:
    manifest = service.release.manifest
    loaded = {
        "release": manifest.release_id,
        "name": manifest.name,
        "created_at": manifest.created_at.isoformat(),
        "watermark": rfc3339(manifest.watermark_ms),
        "metrics": manifest.metrics,
    }

    @app.get("/v1/releases", **_gives(schemas.Releases))
    async def releases() -> Response:
        """The releases that are loaded."""
        return _json({"releases": [loaded]})

    @app.get("/health/live", **_gives(schemas.Health))
    async def live() -> Response:
        """Whether the process answers."""
        return _json({"status": "live"})

    @app.get("/health/ready", **_gives(schemas.Health))
    async def ready() -> Response:
        """Whether release and store are loaded and a request went through all stages."""
        if not service.ready:
            raise Problem(503, "not-ready", "still loading", headers={"Retry-After": "2"})
        return _json({"status": "ready"})


async def _body(request: Request) -> bytes:
    """The body's bytes, refused as soon as there are too many."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Problem(413, "body-too-large", f"a body has at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


async def _parsed(request: Request, kind: type[B]) -> B:
    try:
        return kind.model_validate_json(await _body(request))
    except ValidationError as error:
        raise problems.invalid(error) from None


def _id(value: str, name: str = "user_id") -> str:
    try:
        return schemas.check_id(value)
    except ValueError as error:
        raise Problem(400, "invalid-request", f"{name} in the path: {error}") from None


def _part(item_id: str | None, before: str | None) -> dict[str, Any]:
    """What to forget, from the query string."""
    if item_id is not None and before is not None:
        raise Problem(400, "invalid-request", "give item_id or before, not both")
    try:
        if item_id is not None:
            return {"item_id": schemas.check_id(item_id)}
        return {"before_ms": schemas.millis(before)}
    except ValueError as error:
        name = "before" if item_id is None else "item_id"
        raise Problem(400, "invalid-request", f"{name}: {error}") from None


def _explained(service: Service, user_id: str, feature: str) -> dict[str, Any]:
    read, opened = service.pipeline.read, service.opened
    # The state is folded from the history, so that both are of one moment.
    history = opened.store.interactions(user_id)
    memory = read(read.fold(history), now_ms=opened.clock())
    try:
        return service.recall.explain(memory, feature, history)
    except ValueError as error:
        raise Problem(404, "not-found", str(error)) from None


def _forget(store: MemoryStore, user_id: str, what: dict[str, Any]) -> Receipt:
    try:
        return store.forget(user_id, **what)
    except ValueError as error:  # a time in the future
        raise Problem(400, "invalid-request", str(error)) from None


async def _reply(work: Callable[[], Any], limiter: anyio.CapacityLimiter) -> Response:
    """Runs blocking work in a thread and replies with what it returns."""
    try:
        return _json(await anyio.to_thread.run_sync(work, limiter=limiter))
    except StoreFullError as error:
        raise Problem(507, "store-full", str(error), headers={"Retry-After": "60"}) from error
    except (MemoryUnavailableError, StoreUnavailableError) as error:
        detail = "the memory store cannot be reached at the moment; send it again"
        problems.log.error("memory store: %s", error)
        raise Problem(503, "store-unavailable", detail, headers={"Retry-After": "5"}) from error


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """A raw handler's body, for OpenAPI."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=kind.__name__)}}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def _document_bodies(app: FastAPI) -> None:
    """Adds to OpenAPI what `_takes` refers to."""
    bodies = (
        schemas.RecommendRequest,
        schemas.SearchRequest,
        schemas.EventsRequest,
        schemas.FactRequest,
    )
    _, defined = models_json_schema([(b, "validation") for b in bodies], ref_template=_REF)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["schemas"].update(defined["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _gives(kind: Any) -> dict[str, Any]:
    """A raw handler's replies, for OpenAPI."""
    problem = {
        "description": "Problem document (RFC 9457)",
        "content": {problems.MEDIA_TYPE: {"schema": schemas.ProblemDocument.model_json_schema()}},
    }
    return {"response_class": Response, "responses": {200: {"model": kind}, "default": problem}}


def _without_telemetry() -> dict[str, Any]:
    """Newer FastAPI traces and measures by itself, at a cost on every request."""
    if "telemetry" not in inspect.signature(FastAPI.__init__).parameters:
        return {}
    parts = ("tracing", "metrics", "logs", "operation_spans")
    return {"telemetry": dict.fromkeys(parts, False)}
