"""Stores to test: each test that asks for one runs with every store of `world.STORES`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.stores import MemoryStore
from tests.models.stores.redis_server import open_redis
from tests.models.stores.world import STORES, Clock, Open

STORES["redis"] = open_redis  # this file is read before the tests beside it


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES.values(), ids=STORES)
def opened(request: pytest.FixtureRequest) -> Open:
    return request.param


@pytest.fixture
def store(opened: Open, tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    made = opened(tmp_path / "store", clock)
    yield made
    made.close()


@pytest.fixture
def other(opened: Open, tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    made = opened(tmp_path / "other", clock)
    yield made
    made.close()
