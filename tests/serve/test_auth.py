import pytest

from serve import auth
from serve.auth import check_exposure, keys_from_environment
from serve.service import Service
from tests.serve.world import Client, problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_loopback_needs_no_key(host):
    check_exposure(host, [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "ebb.example", "", "None"])
def test_other_hosts_need_one(host):
    with pytest.raises(ValueError, match="EBB_API_KEYS"):
        check_exposure(host, [])
    check_exposure(host, ["key"])


def test_keys_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(auth.VARIABLE, " one, two ,,")
    assert keys_from_environment() == ["one", "two"]
    monkeypatch.delenv(auth.VARIABLE)
    assert keys_from_environment() == []


def test_no_request_without_a_key(service: Service):
    client = Client(service, keys=["one", "tẅo"])
    for header in (None, "one", "Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one"):
        headers = {"Authorization": header} if header else {}
        for path in ("/v1/releases", "/v1/users/a/memory", "/v1/nothing"):
            reply = client.send("GET", path, headers=headers)
            problem(reply, 401, "unauthorized")
            assert reply.headers["www-authenticate"].startswith("Bearer")
    for header in (b"Bearer one", b"bearer one ", "Bearer tẅo".encode()):
        assert client.get("/v1/releases", headers={b"Authorization": header})
    assert client.get("/health/live")
    assert client.get("/openapi.json")
    client.close()
