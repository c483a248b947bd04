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

from models.stores import StoreFullError
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

    @app.delete(path, **_gives(schemas.ErasureReceipt))
    async def erase(user_id: str) -> Response:
        """Erases all that is remembered of a user, for good, and gives a receipt."""
        known = _id(user_id)
        return await _reply(lambda: recall.receipt(store.delete(known)), writing)


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


def _id(user_id: str) -> str:
    try:
        return schemas.check_id(user_id)
    except ValueError as error:
        raise Problem(400, "invalid-request", f"user_id in the path: {error}") from None


async def _reply(work: Callable[[], Any], limiter: anyio.CapacityLimiter) -> Response:
    """Runs blocking work in a thread and replies with what it returns."""
    try:
        return _json(await anyio.to_thread.run_sync(work, limiter=limiter))
    except StoreFullError as error:
        raise Problem(507, "store-full", str(error), headers={"Retry-After": "60"}) from error
    except MemoryUnavailableError as error:
        detail = "the memory store cannot be read at the moment"
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
    bodies = (schemas.RecommendRequest, schemas.SearchRequest, schemas.EventsRequest)
    _, defined = models_json_schema([(b, "validation") for b in bodies], ref_template=_REF)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["schemas"].update(defined["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _gives(kind: type[BaseModel]) -> dict[str, Any]:
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
