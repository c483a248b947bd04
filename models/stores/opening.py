"""Opens the store that a config names: a folder for the embedded one, a url for Redis or Valkey."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from models.events import Interests
from models.memory import StateSpec
from models.stores.lmdb import LmdbStore
from models.stores.protocol import Clock, MemoryStore, StoreConfig, wall_clock
from models.stores.redis.config import RedisConfig


def _kind(value: Any) -> str:
    has_url = "url" in value if isinstance(value, dict) else isinstance(value, RedisConfig)
    return "url" if has_url else "path"


MemoryConfig = Annotated[
    Annotated[StoreConfig, Tag("path")] | Annotated[RedisConfig, Tag("url")], Discriminator(_kind)
]
"""What a config that has a store in it says: `path` or `url`, and what belongs to that store."""


def open_memory(
    config: StoreConfig | RedisConfig,
    *,
    spec: StateSpec,
    name: str | None = None,
    interests: Interests | None = None,
    clock: Clock = wall_clock,
) -> MemoryStore:
    """Opens a store, and makes it where it is missing.

    Args:
        config: where it is.
        spec: what a state keeps.
        name: one of many stores there: a folder in the folder, a prefix behind the prefix.
        interests: item keys to interest buckets; a catalogue's `interests`.
        clock: the present in milliseconds, for lateness and erasure.

    Raises:
        ValueError: when there is a store of another spec or layout, or the server is none that a
            memory can be trusted to.
        StoreUnavailableError: when the server cannot be reached.
    """
    if isinstance(config, StoreConfig):
        path = config.path / name if name else config.path
        config = config.model_copy(update={"path": path})
        return LmdbStore(config, spec=spec, interests=interests, clock=clock)
    try:
        from models.stores.redis.store import RedisStore
    except ModuleNotFoundError as error:
        raise ValueError(
            f"store {config.name} needs the Redis client: pip install 'ebb[redis]'"
        ) from error
    prefix = f"{config.prefix}:{name}" if name else config.prefix
    config = config.model_copy(update={"prefix": prefix})
    return RedisStore(config, spec=spec, interests=interests, clock=clock)
