"""The service over a shared store: two replicas on one real redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serve.opening import open_store
from tests.models.stores.redis_server import RedisServer, needs_redis
from tests.serve.world import USER, Client, config_of, event, ids, opened, problem

pytestmark = needs_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def config(release: Path, server: RedisServer, **more: object):
    return config_of(
        release, Path(), store={"url": server.url, "timeout": "1s"}, clock="wall", **more
    )


@pytest.fixture
def replicas(
    release: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Client]]:
    monkeypatch.setenv("EBB_SECRET", "shared")
    with ExitStack() as stack:
        services = [stack.enter_context(opened(config(release, server))) for _ in range(2)]
        clients = [Client(service) for service in services]
        yield clients
        for client in clients:
            client.close()


def test_an_event_taken_by_one_replica_is_in_the_next_request_to_the_other(replicas):
    one, other = replicas
    before = ids(other.recommend("ann", page_size=100))
    assert one.events(event(1), event(2, item_id=before[-1]))["accepted"] == 2
    assert other.events(event(1))["duplicates"] == 1
    assert [i["item_id"] for i in other.get("/v1/users/ann/memory")["interactions"]] == [
        before[-1],
        "red-clock",
    ]
    assert ids(other.recommend("ann", page_size=100)) == ids(one.recommend("ann", page_size=100))
    assert ids(other.recommend("ann", page_size=100)) != before
    assert other.delete("/v1/users/ann/memory")["num_events"] == 2
    assert one.get("/v1/users/ann/memory")["known"] is False


def test_the_snapshot_is_restored_once_for_all(replicas):
    one, other = replicas
    assert one.get(f"/v1/users/{USER}/memory")["num_events"] == 12
    assert other.get(f"/v1/users/{USER}/memory")["num_events"] == 12
    page = one.recommend(page_size=3)
    rest = other.recommend(page_size=3, page_token=page["next_page_token"])  # one secret
    assert rest["items"][0]["rank"] == 4


def test_without_the_server_search_goes_on_and_events_wait(replicas, server):
    client = replicas[0]
    server.stop()
    reply = client.recommend("ann")
    assert [d["stage"] for d in reply["degraded"]] == ["memory"]
    assert reply["items"]
    for method, path, body in (
        ("POST", "/v1/events", {"events": [event(1)]}),
        ("GET", "/v1/users/ann/memory", None),
        ("DELETE", "/v1/users/ann/memory", None),
        ("PUT", "/v1/users/ann/facts/budget", {"value": 1}),
    ):
        reply = client.send(method, path, json=body)
        problem(reply, 503, "store-unavailable")
        assert reply.headers["retry-after"]
    server.start()
    assert client.events(event(1))["accepted"] == 1
    assert client.recommend("ann")["degraded"] == []


def test_a_shared_store_wants_a_shared_secret_and_the_wall_clock(release, server, monkeypatch):
    from models import release as releases

    loaded = releases.load(release)
    monkeypatch.delenv("EBB_SECRET", raising=False)
    with pytest.raises(ValueError, match="set EBB_SECRET"):
        open_store(config(release, server), loaded)
    monkeypatch.setenv("EBB_SECRET", "shared")
    other = config(release, server).model_copy(update={"clock": "release"})
    with pytest.raises(ValueError, match="clock: wall"):
        open_store(other, loaded)
