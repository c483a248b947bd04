"""Every error as a problem document (RFC 9457, `application/problem+json`).

The `type` says which kind it is and stays stable; `detail` is for people.

| status | type `urn:ebb:problem:` | when |
|---|---|---|
| 400 | `malformed-json` | the body is no JSON |
| 400 | `invalid-request` | JSON that breaks the schema; `errors` names each place |
| 400 | `invalid-filter`, `invalid-context`, `invalid-page-token` | it does not fit this release |
| 401 | `unauthorized` | no API key, or an unknown one |
| 404, 405 | `not-found`, `method-not-allowed` | |
| 409 | `erased` | the user was erased at the very moment of saying a fact |
| 413 | `body-too-large` | |
| 500 | `internal` | a fault of ours; its traceback is in the log, never in the reply |
| 503 | `not-ready`, `store-unavailable` | with Retry-After |
| 507 | `store-full` | with Retry-After |

Ray Serve's proxy answers some requests before they reach this app (no replica, too many waiting,
timed out): those replies are plain text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response

log = logging.getLogger("ebb.serve")
MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
"""Places named in one document."""


class Problem(Exception):
    """An error to tell the client. Raise it anywhere below a handler."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.errors, self.headers = errors, dict(headers or {})

    def response(self) -> Response:
        """The document."""
        document: dict[str, Any] = {
            "type": f"urn:ebb:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        body = orjson.dumps(document)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid(error: ValidationError) -> Problem:
    """A body that breaks its schema, place by place."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found and found[0]["type"] == "json_invalid":
        return Problem(400, "malformed-json", found[0]["msg"])
    errors = [{"pointer": pointer(e["loc"]), "detail": said(e)} for e in found[:MAX_ERRORS]]
    more = f" and {len(found) - MAX_ERRORS} more" if len(found) > MAX_ERRORS else ""
    first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
    detail = first if len(found) == 1 else f"{len(found)} places are wrong{more}, first {first}"
    return Problem(400, "invalid-request", detail, errors=errors)


def pointer(location: Sequence[int | str]) -> str:
    """A place in a JSON body (RFC 6901, as a fragment)."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join(f"/{part}" for part in parts)


def said(error: ErrorDetails) -> str:
    """What pydantic found, in our words where its own are about Python."""
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "is required"
    return error["msg"].removeprefix("Value error, ")


def install(app: FastAPI) -> None:
    """Makes every error of an app a problem document."""

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "-")
        where = f"{request.method} {request.url.path}"
        detail = f"{where}: {phrase.lower()}; GET /openapi.json lists what there is"
        return Problem(error.status_code, kind, detail, headers=error.headers).response()

    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem(500, "internal", "a fault of the service; its log says more").response()

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_fault)
