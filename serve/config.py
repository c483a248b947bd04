"""What the service is told: the `args` of its application in `configs/serve.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.config import Config, Duration
from models.stores.opening import MemoryConfig


class Budgets(Config):
    """How long a stage that can be skipped may take.

    A stage over its budget is skipped, and the reply says so; 0 skips it always.
    """

    memory: Duration = Field(250, ge=0)
    """Skipped: search and recommend go on as for an unknown user."""
    rank: Duration = Field(1_000, ge=0)
    """Skipped: the order is that of retrieval."""


class ServeConfig(Config):
    """Everything that a replica needs. Relative paths start where Ray was started."""

    release: Path
    """Folder that `python -m jobs.release` wrote."""
    store: MemoryConfig
    """`path`: a folder for each memory snapshot served, and the secret of page tokens; for one
    machine. `url`: a Redis or Valkey server that all machines share; it needs EBB_SECRET."""
    clock: Literal["wall", "release"] = "wall"
    """The service's time. `release` begins at the release's newest event when the store is first
    opened and runs on from there, also while nothing serves: for a demonstration on old events,
    whose memory would have ebbed away by today. Keep `wall` for real traffic."""
    budgets: Budgets = Budgets()
    threads: int = Field(2, ge=1, le=256)
    """Requests computed at one moment in a replica; others wait their turn."""
    torch_threads: int = Field(1, ge=1)
    """Threads of one computation. Requests are small: more threads cost more than they bring."""
