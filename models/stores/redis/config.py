"""Where a Redis or Valkey server is, and what is expected of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from models.config import DAY_MS, Config, Duration

PASSWORD = "EBB_REDIS_PASSWORD"
"""The environment variable with the password. A config is saved with each run, so it holds none."""


class RedisConfig(Config):
    """Where the server is, and how long the store can tell a new event from a known one."""

    url: str = Field(pattern=r"^(rediss?|unix)://")
    """`redis://host:6379/0`, `rediss://` for TLS, `unix:///path`. The password is taken from
    EBB_REDIS_PASSWORD."""
    prefix: str = Field("ebb", pattern=r"^[^{}\s]+$")
    """All keys begin with it: stores of several prefixes share a server."""
    cluster: bool = False
    """Whether the url names a node of a cluster."""
    dedup_horizon: Duration = Field(7 * DAY_MS, gt=0)
    """An unknown event older than this cannot be proven new and is late."""
    sync: bool = True
    """Whether an event is on the disk before it is acknowledged: the server must then have
    `appendonly yes` and `appendfsync always`. Without it a crash may lose events."""
    vouched: bool = False
    """You vouch that the server does as `sync` says and evicts nothing. For a managed service that
    forbids CONFIG, so that the store cannot look itself."""
    timeout: Duration = Field(5_000, gt=0)
    """How long the server may be silent before a call fails."""

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        if urlsplit(url).password or "password=" in urlsplit(url).query:
            raise ValueError(
                f"a config is saved with every run: take the password out of the url and set "
                f"{PASSWORD} in the environment"
            )
        return url

    @property
    def name(self) -> str:
        """How messages name the store."""
        return f"{self.url} {self.prefix}"
