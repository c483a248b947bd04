"""Opens the store of a release: the folder, the first restore, the clock and the secret.

    <store.path>/secret              signs page tokens, unless EBB_SECRET is set; mode 0600
    <store.path>/<snapshot id>/      an LMDB store that began with that memory snapshot
    <store.path>/<snapshot id>.json  when it was first opened, and the service's time then
    <store.path>/opening.lock        one replica opens at a time

With a `url` instead of a path, each memory snapshot has a prefix on that server, the secret comes
from EBB_SECRET and the clock is the wall's: several machines agree on nothing else.

Two releases with the same memory share a store; a release with another memory begins a new one from
its own snapshot. What was posted in between is in the older store's stream, for a replay.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from models.release import Release
from models.stores import (
    Clock,
    MemoryStore,
    Snapshot,
    SnapshotInfo,
    StoreConfig,
    wall_clock,
)
from models.stores.opening import open_memory
from serve.config import ServeConfig


@dataclass(frozen=True)
class Opened:
    """An open store and what goes with it."""

    store: MemoryStore
    clock: Clock
    """The service's time."""
    secret: bytes


def open_store(config: ServeConfig, release: Release) -> Opened:
    """Opens the store of a release, and fills it from the release's snapshot the first time.

    Raises:
        ValueError: when the snapshot or the store do not fit the release, or the store was first
            opened under another `clock`.
    """
    info = Snapshot(release.snapshot, release.model.memory.state).info
    if not isinstance(config.store, StoreConfig):
        secret = _shared(config)
        return Opened(_filled(config, release, info, wall_clock), wall_clock, secret)
    root = config.store.path
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "opening.lock"):
        clock = _clock(config.clock, root / f"{info.snapshot_id}.json", release, info)
        return Opened(_filled(config, release, info, clock), clock, _secret(root / "secret"))


def _filled(config: ServeConfig, release: Release, info: SnapshotInfo, clock: Clock) -> MemoryStore:
    """The store of a snapshot, restored from it if it is new."""
    store = open_memory(
        config.store,
        spec=release.model.memory.state,
        name=info.snapshot_id,
        interests=release.recommender.catalogue.interests,
        clock=clock,
    )
    try:
        # A restore is all or nothing: a store with users has had its own.
        if info.num_users and not store.num_users:
            store.restore(release.snapshot)
    except BaseException:
        store.close()
        raise
    return store


def _shared(config: ServeConfig) -> bytes:
    """The secret of a service on several machines."""
    secret = os.environ.get("EBB_SECRET", "")
    if config.clock != "wall" or not secret:
        raise ValueError(
            f"store {config.store.url} is shared by several machines: set EBB_SECRET to the same "
            "secret on all of them, and `clock: wall`"
        )
    return secret.encode()


def _clock(kind: str, path: Path, release: Release, info: SnapshotInfo) -> Clock:
    """The service's time; all replicas and all starts of a store agree on it."""
    if not path.exists():
        # The snapshot has no marks of the events before `marks_from`: they would count as late.
        first = max(release.manifest.watermark_ms + 1, info.marks_from)
        opened = {"clock": kind, "wall_ms": wall_clock(), "release_ms": first}
        _write_new(path, orjson.dumps(opened))
    opened = orjson.loads(path.read_bytes())
    if opened["clock"] != kind:
        raise ValueError(
            f"store {path.with_suffix('')} was first opened with clock {opened['clock']!r}, not "
            f"{kind!r}: its events carry that time. Set another store.path."
        )
    if kind == "wall":
        return wall_clock
    behind = opened["wall_ms"] - opened["release_ms"]
    return lambda: wall_clock() - behind


def _secret(path: Path) -> bytes:
    """EBB_SECRET, or a file of this store that all its replicas read."""
    given = os.environ.get("EBB_SECRET", "")
    if given:
        return given.encode()
    if not path.exists():
        _write_new(path, secrets.token_hex(32).encode())
    return path.read_bytes()


def _write_new(path: Path, content: bytes) -> None:
    """A file for this user alone, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when the process ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
