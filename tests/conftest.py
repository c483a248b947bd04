"""What tests of several folders share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small Ray of our own for the whole test session; `jobs.console.ray_session` joins it."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    from jobs.console import KEEP_WORKERS

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=150_000_000,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _system_config=KEEP_WORKERS,
    )
    yield
    ray.shutdown()
