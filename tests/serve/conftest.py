"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from serve.service import Service
from tests.serve.world import WORLD, Client, config_of, opened


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return WORLD.release(tmp_path_factory.mktemp("tiny") / "release")


@pytest.fixture
def service(release: Path, tmp_path: Path) -> Iterator[Service]:
    with opened(config_of(release, tmp_path / "store")) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    client = Client(service)
    yield client
    client.close()


@pytest.fixture(scope="session")
def shared(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """For tests that change nothing."""
    with opened(config_of(release, tmp_path_factory.mktemp("shared") / "store")) as service:
        client = Client(service)
        yield client
        client.close()
