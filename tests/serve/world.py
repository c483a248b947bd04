"""A running service for tests: the tiny release, a store of its own, a client without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from serve.config import ServeConfig
from serve.http import application
from serve.problems import MEDIA_TYPE
from serve.service import Service
from tests.worlds import World

WORLD = World()
USER = "user-03"


def config_of(release: Path, folder: Path, **more: Any) -> ServeConfig:
    """Generous budgets: a busy machine must not degrade what is not about budgets."""
    given = {
        "release": release,
        "store": {"path": folder, "sync": False, "map_size_bytes": 1 << 24},
        "clock": "release",
        "budgets": {"memory": "60s", "rank": "60s"},
    }
    return ServeConfig.model_validate({**given, **more})


@contextmanager
def opened(config: ServeConfig) -> Iterator[Service]:
    """A warm service."""
    service = Service.open(config)
    try:
        service.warm_up()
        yield service
    finally:
        service.close()


class Client:
    """Calls an application in this process."""

    def __init__(self, service: Service, keys: list[str] | None = None) -> None:
        self.service = service
        app = application(service, keys=keys or [])
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://ebb")
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._runner.run(self._http.request(method, path, **options))

    def get(self, path: str, **options: Any) -> Any:
        return fine(self.send("GET", path, **options))

    def delete(self, path: str) -> Any:
        return fine(self.send("DELETE", path))

    def recommend(self, user_id: str = USER, **body: Any) -> Any:
        return fine(self.send("POST", "/v1/recommend", json={"user_id": user_id, **body}))

    def search(self, query: str, **body: Any) -> Any:
        return fine(self.send("POST", "/v1/search", json={"query": query, **body}))

    def events(self, *events: Any) -> Any:
        return fine(self.send("POST", "/v1/events", json={"events": list(events)}))


def fine(reply: httpx.Response) -> Any:
    """The body of a reply that must be 200."""
    assert reply.status_code == 200, reply.text
    return reply.json()


def problem(reply: httpx.Response, status: int, kind: str) -> Any:
    """The document of a reply that must be this problem."""
    assert reply.headers["content-type"] == MEDIA_TYPE, reply.text
    document = reply.json()
    assert (reply.status_code, document["status"]) == (status, status), document
    assert document["type"] == f"urn:ebb:problem:{kind}", document
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in reply.text
    return document


def event(number: int | str, **more: Any) -> dict[str, Any]:
    """An event of `ann`, now."""
    plain = {"event_id": f"n{number}", "user_id": "ann", "action": "purchase"}
    return {**plain, "item_id": "red-clock", **more}


def ids(reply: Any) -> list[str]:
    """The items of a slate."""
    return [item["item_id"] for item in reply["items"]]


def texts(reply: Any, item_id: str) -> list[str]:
    """The reasons of one item of a slate."""
    item = next(i for i in reply["items"] if i["item_id"] == item_id)
    return [reason["text"] for reason in item["reasons"]]
