"""A real redis-server for the tests: our own process, loopback only, in a folder of its own."""

from __future__ import annotations

import atexit
import functools
import random
import shutil
import socket
import subprocess
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import redis

from models.events import Interests
from models.memory import StateSpec
from models.stores import MemoryStore
from models.stores.redis.config import RedisConfig
from models.stores.redis.store import RedisStore
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import Clock, buckets

BINARY = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    BINARY is None, reason="no redis-server on this machine: apt-get install redis-server"
)
_PATIENCE_S = 20


class RedisServer:
    """A server on a free port. Settings are those of redis.conf, given as text."""

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, _free_port()
        self.settings = {"appendonly": "yes", "appendfsync": "always", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """A connection of the test's own."""
        password = self.settings.get("requirepass")
        return redis.Redis(port=self.port, password=password, socket_timeout=_PATIENCE_S)

    def start(self) -> None:
        """Starts it, on what lies in its folder, and waits until it answers."""
        if BINARY is None:
            pytest.skip("no redis-server on this machine: apt-get install redis-server")
        own = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": ""}
        words = [w for k, v in {**own, **self.settings}.items() for w in (f"--{k}", *v.split(" "))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([BINARY, *words], stdout=log, stderr=log)
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.ConnectionError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.stop()
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash does it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stops exactly this process; its folder stays."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _free_port() -> int:
    """Below those that the system gives out; a cluster's bus listens 10,000 higher."""
    while True:
        port = random.randrange(15_000, 22_000)
        try:
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


@functools.cache
def shared_server() -> RedisServer:
    """One server for all tests that need no other; it ends with the tests."""
    folder = Path(mkdtemp(prefix="ebb-redis-"))
    server = RedisServer(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.stop)  # before the folder goes
    return server


def open_redis(
    folder: Path,
    clock: Clock | None = None,
    *,
    spec: StateSpec = SPEC,
    interests: Interests = buckets,
    **config: Any,
) -> MemoryStore:
    """A folder names a store as in the other stores: it becomes the prefix of its keys."""
    url = config.pop("url", None) or shared_server().url
    settings = RedisConfig(url=url, **{"prefix": str(folder), **config})
    return RedisStore(settings, spec=spec, interests=interests, clock=clock or Clock())
