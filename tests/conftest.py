"""What tests of several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("ebb", deadline=None)  # no test asserts a time
settings.load_profile("ebb")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small Ray of our own for the whole test session; `jobs.console.ray_session` joins it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    from jobs.console import start_ray

    start_ray(num_cpus=2, object_store_mb=150)
    yield
    ray.shutdown()
