"""The connection: commands in pipelines, plain errors, and a look at the server before use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import redis
from redis import exceptions as faults
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from models.stores.protocol import StoreFullError, StoreUnavailableError
from models.stores.redis.config import PASSWORD, RedisConfig
from models.stores.redis.scripts import ALL, Script

Command: TypeAlias = tuple[str | bytes | int, ...]

_UNREACHABLE = (
    faults.ConnectionError,
    faults.TimeoutError,
    faults.ReadOnlyError,
    faults.ClusterDownError,
    faults.TryAgainError,
    faults.RedisClusterException,
    faults.ClusterError,
)
# What we ask of the server, and what is wrong with an answer.
_SYNC = {
    "appendonly": ("yes", "it keeps nothing when it stops"),
    "appendfsync": ("always", "it acknowledges events that are not on the disk yet"),
    "no-appendfsync-on-rewrite": ("no", "it does not wait for the disk during a rewrite"),
}
_LONGEST = 1 << 20  # arguments of a command; the server closes the connection at more
_SETTINGS = ("maxmemory-policy", *_SYNC)


def crowded() -> StoreUnavailableError:
    """Others were always faster."""
    return StoreUnavailableError(
        "too many write the same users at once; send it again, through fewer writers"
    )


def call(script: Script, keys: Sequence[bytes], *arguments: str | bytes | int) -> Command:
    """The command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


class Server:
    """A Redis or Valkey server, or a cluster of them. Safe to share between threads.

    Raises:
        ValueError: for a server that loses or evicts events.
        StoreUnavailableError: when there is none.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        seconds = config.timeout / 1000
        make: Any = RedisCluster if config.cluster else redis.Redis
        self._client: Any = make.from_url(
            config.url,
            password=os.environ.get(PASSWORD),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            protocol=2,
            # Once: a pooled connection may have died of age. All that we send can be sent twice.
            retry=Retry(NoBackoff(), 1),
        )
        try:
            with self._plainly():
                if not config.vouched:
                    self._look()
                self._load()
        except BaseException:
            self.close()
            raise

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, sent together. They are not one atomic step.

        Raises:
            ValueError: for a command longer than a server takes.
            StoreFullError: when the server is out of memory for one of them.
            StoreUnavailableError: when it does not answer.
        """
        if max(map(len, commands), default=0) > _LONGEST:
            raise ValueError(
                "a call has too many events of one user for one step; send at most 200,000 at once"
            )
        with self._plainly():
            replies = self._send(commands)
            # A server that was started anew knows no script.
            missing = [n for n, r in enumerate(replies) if isinstance(r, faults.NoScriptError)]
            if missing:
                self._load()
                again = self._send([commands[n] for n in missing])
                for place, reply in zip(missing, again, strict=True):
                    replies[place] = reply
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    def one(self, *command: str | bytes | int) -> Any:
        """The reply to one command."""
        return self.run([command])[0]

    def close(self) -> None:
        """Lets go of the connections."""
        self._client.close()

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        pipeline = self._client.pipeline() if self._config.cluster else self._plain_pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        return replies

    def _plain_pipeline(self) -> Any:
        return self._client.pipeline(transaction=False)

    def _load(self) -> None:
        try:
            for script in ALL:
                self._client.script_load(script.text)
        except faults.ResponseError as error:
            if "compiling" not in str(error):
                raise
            raise ValueError(
                f"store {self._config.name}: the server is too old; take Redis 7 or Valkey"
            ) from error

    def _look(self) -> None:
        """Whether the server keeps what it acknowledges."""
        for settings in self._settings():
            policy = settings["maxmemory-policy"]
            if policy.startswith("allkeys"):
                raise ValueError(
                    f"store {self._config.name}: the server evicts what it likes (maxmemory-policy "
                    f"{policy}), a memory must not; set maxmemory-policy noeviction"
                )
            for name, (needed, otherwise) in _SYNC.items() if self._config.sync else ():
                if settings[name] != needed:
                    raise ValueError(
                        f"store {self._config.name}: the server has {name} {settings[name]}, so "
                        f"{otherwise}; set {name} {needed} there, or `sync: false` here if events "
                        "may be lost in a crash"
                    )

    def _settings(self) -> list[dict[str, str]]:
        """Of every server that holds a part."""
        try:
            if not self._config.cluster:
                return [self._client.config_get(*_SETTINGS)]
            nodes = self._client.get_primaries()
            return [self._client.config_get(*_SETTINGS, target_nodes=node) for node in nodes]
        except faults.ResponseError as error:
            raise ValueError(
                f"store {self._config.name}: the server does not show its configuration ({error}), "
                "so nobody can tell whether it keeps what it acknowledges; ask its operator and "
                "set `vouched: true`"
            ) from error

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        # From None: the library's own message may hold the command, and so the person's events.
        try:
            yield
        except faults.OutOfMemoryError:
            raise StoreFullError(
                f"store {self._config.name} is full: raise `maxmemory` on the server. No user is "
                "half-written, some of the call's may be kept; send it again, reads go on."
            ) from None
        except faults.AuthenticationError as error:
            raise ValueError(
                f"store {self._config.name}: {error}; set {PASSWORD} in the environment"
            ) from None
        except _UNREACHABLE as error:
            raise StoreUnavailableError(
                f"store {self._config.name} cannot be reached: {error}. Of a write it is not known "
                "whether it was kept; send it again."
            ) from None
